from __future__ import annotations

import pickle
from collections.abc import Callable

import pytest

from fl_cluster.program.yaml_config import load_settings, load_yaml_config


def test_a_missing_file_is_a_runtime_error(tmp_path: object) -> None:
    path = f"{tmp_path}/nowhere.yaml"

    with pytest.raises(RuntimeError) as caught:
        load_yaml_config(path, "MS_SERVER")

    assert str(caught.value) == f"yaml config file {path} not exist"


def test_the_first_line_is_what_has_always_been_reported_and_the_rest_follows(
    write_config: Callable[..., str],
) -> None:
    path = write_config(
        fl_iteration_num="fl_iteration_num: 0", client="client: {client_epoch_num: 0}"
    )

    with pytest.raises(RuntimeError) as caught:
        load_settings(path, "server")

    first, second = str(caught.value).splitlines()
    assert first == (
        "Failed to check value of parameter 'fl_iteration_num': value is expected to be range of"
        f" [1,4294967295], but got 0, yaml config file: {path}"
    )
    assert "'client.client_epoch_num'" in second
    assert str(pickle.loads(pickle.dumps(caught.value))) == str(caught.value)


def test_the_path_is_text(context: object) -> None:
    with pytest.raises(RuntimeError, match="Parameter 'yaml_config' should be str, but actually"):
        load_yaml_config(None, "MS_SERVER")  # type: ignore[arg-type]
