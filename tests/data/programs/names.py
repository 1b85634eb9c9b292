"""Every module path and name that programs import, here and in every kind of child."""

import multiprocessing
import pickle
import subprocess
import sys

import mindspore_federated
import mindspore_federated as ms_fl
from mindspore_federated import (
    Callback,
    CallbackContext,
    FeatureMap,
    FlSchedulerJob,
    FLServerJob,
    SSLConfig,
    log,
    privacy,
)
from mindspore_federated._mindspore_federated import Federated_, FLContext
from mindspore_federated.common import _fl_context
from mindspore_federated.common.check_type import check_str
from mindspore_federated.startup.feature_map import FeatureItem
from mindspore_federated.startup.federated_local import FLServerJob as TheSameJob
from mindspore_federated.startup.ssl_config import SSLConfig as TheSameConfig
from mindspore_federated.startup.yaml_config import load_yaml_config

ASK = "import mindspore_federated as m; print(m.__file__, m.FLServerJob.__name__)"


def ask_in_child(pipe):
    from mindspore_federated import FLServerJob

    pipe.send((mindspore_federated.__file__, FLServerJob.__name__))


def main():
    assert TheSameJob is FLServerJob and TheSameConfig is SSLConfig
    assert _fl_context.fl_context() is FLContext.get_instance()
    assert mindspore_federated.startup.feature_map.FeatureItem is FeatureItem
    assert pickle.loads(pickle.dumps(SSLConfig("a", "b"))).client_password == "b"
    for name in ms_fl.__all__:
        getattr(mindspore_federated, name)
    here = f"{mindspore_federated.__file__} FLServerJob"
    assert subprocess.check_output([sys.executable, "-c", ASK], text=True).strip() == here
    for how in ("fork", "spawn", "forkserver"):
        context = multiprocessing.get_context(how)
        mine, theirs = context.Pipe()
        child = context.Process(target=ask_in_child, args=(theirs,))
        child.start()
        assert " ".join(mine.recv()) == here, how
        child.join()
        assert child.exitcode == 0
    print("all names are there", sys.argv[1:])
    sys.exit(7)


if __name__ == "__main__":
    main()
