"""A test suite in the style of those written for 0.1.0, with servers in forked children."""

import os
from multiprocessing import Pipe, Process

import numpy as np
import pytest
from mindspore_federated import FeatureMap, FLServerJob
from mindspore_federated.startup.ssl_config import SSLConfig


def run_in_child(yaml_config, http_server_address, feature_map):
    here, there = Pipe()

    def serve():
        try:
            FLServerJob(yaml_config, http_server_address).run(feature_map)
            there.send(None)
        except Exception as exception:
            there.send(exception)

    child = Process(target=serve)
    child.start()
    answer = here.recv()
    child.join()
    return answer


def test_an_address_that_is_none():
    feature_map = FeatureMap()
    feature_map.add_feature("w", np.ones(3, np.float32))
    answer = run_in_child(os.environ["YAML_CONFIG"], "127.0.0.1:70000", feature_map)
    assert isinstance(answer, RuntimeError)
    assert "The format of http server address '127.0.0.1:70000' is invalid" in str(answer)


def test_passwords():
    with pytest.raises(RuntimeError, match="Parameter 'client_password' should not be empty str"):
        SSLConfig("secret", "")
