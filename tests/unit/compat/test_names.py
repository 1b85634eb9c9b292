"""The names that programs import, and what stands behind each."""

from __future__ import annotations

import importlib
from typing import Any

import numpy as np
import pytest

import fl_cluster
from fl_cluster.compat.finder import NAME, install


@pytest.fixture
def package(clean: pytest.MonkeyPatch) -> Any:
    install()
    return importlib.import_module(NAME)


CLOUD = [
    "FLServerJob",
    "FlSchedulerJob",
    "Callback",
    "CallbackContext",
    "FeatureMap",
    "SSLConfig",
    "FederatedLearningManager",
    "PushMetrics",
]
VERTICAL = [
    "FLModel",
    "FLYamlData",
    "PartyGradOperation",
    "PartyOptimizer",
    "PartyGradScaler",
    "VerticalFederatedCommunicator",
    "ServerConfig",
    "CompressConfig",
    "FLDataWorker",
]
MODULES = ["privacy", "vfl_utils", "tensor_utils"]

PATHS = {
    "startup.ssl_config": ["SSLConfig"],
    "startup.feature_map": ["FeatureItem", "FeatureMap"],
    "startup.federated_local": ["FLServerJob", "FlSchedulerJob", "Callback", "CallbackContext"],
    "startup.yaml_config": ["load_yaml_config"],
    "common._fl_context": ["fl_context", "ROLE_OF_SERVER", "SUPPORT_AGG_TYPES", "ENCRYPT_PW"],
    "common.check_type": ["check_str", "check_list", "check_int", "check_float"],
    "log": ["debug", "info", "warning", "error", "get_level", "get_log_config"],
    "trainer.hfl_model": ["HFLModel"],
    "aggregation.fedprox": ["WithFedProxLossCell"],
    "_mindspore_federated": ["Federated_", "FLContext", "FeatureItem_", "ModelItem_"],
}


def test_all_is_what_it_has_always_been(package: Any) -> None:
    assert sorted(package.__all__) == sorted([*CLOUD, *VERTICAL, *MODULES])
    assert set(package.__all__) < set(dir(package))


@pytest.mark.parametrize("name", CLOUD)
def test_a_name_of_the_cloud_side_is_ours(package: Any, name: str) -> None:
    assert getattr(package, name) is getattr(fl_cluster, name)


@pytest.mark.parametrize("path", list(PATHS))
def test_a_module_is_found_by_import_and_by_attribute(package: Any, path: str) -> None:
    module = importlib.import_module(f"{NAME}.{path}")
    by_attribute = package
    for part in path.split("."):
        by_attribute = getattr(by_attribute, part)

    assert by_attribute is module
    for name in PATHS[path]:
        assert hasattr(module, name), name


@pytest.mark.parametrize("name", VERTICAL)
def test_a_class_of_vertical_learning_can_be_named_and_says_why_it_is_not_there(
    package: Any, name: str
) -> None:
    absent = getattr(package, name)

    class Mine(absent):  # type: ignore[misc]
        pass

    for use in (absent, Mine, lambda: absent("x", y=1)):
        with pytest.raises(RuntimeError) as caught:
            use()
        assert f"{NAME}.{name} belongs to vertical federated learning" in str(caught.value)
    with pytest.raises(AttributeError, match="belongs to vertical federated learning"):
        absent.load  # noqa: B018


@pytest.mark.parametrize("name", MODULES)
def test_a_module_of_vertical_learning_can_be_imported_and_not_used(
    package: Any, name: str
) -> None:
    module = importlib.import_module(f"{NAME}.{name}")

    assert getattr(package, name) is module
    with pytest.raises(AttributeError, match=rf"{name}\.thing belongs to vertical"):
        module.thing  # noqa: B018


def test_the_native_module_has_what_can_work(package: Any) -> None:
    native = package._mindspore_federated

    item = native.FeatureItem_("w", np.ones((2, 2), np.float32).T, (2, 2), "fp32", False)

    assert native.FLContext.get_instance() is package.common._fl_context.fl_context()
    assert (item.feature_name, item.shape, item.type) == ("w", (2, 2), "fp32")
    assert not item.require_aggr
    with pytest.raises(AttributeError, match="use FLServerJob, FlSchedulerJob and"):
        native.Federated_.start_federated_server([], 0)
    for absent in (native.ModelItem_, native.YamlConfigItem_):
        with pytest.raises(RuntimeError, match="which fl_cluster does not have; use "):
            absent()


def test_an_unknown_name_is_an_attribute_error(package: Any) -> None:
    for module in (package, package._mindspore_federated):
        assert not hasattr(module, "no_such_name")
