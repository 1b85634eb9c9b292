"""A server: in this process, or in a child that is forked or spawned, with a report of it all.

Each line of the report is a JSON list: what happened, and what was seen of it.
"""

import argparse
import json
import multiprocessing
import os
import signal
import threading
import time

import numpy as np
from mindspore_federated import Callback, CallbackContext, FeatureMap, FLServerJob, SSLConfig
from mindspore_federated.common import _fl_context


def get_args():
    parser = argparse.ArgumentParser()
    parser.add_argument("--yaml_config", type=str, default="job.yaml")
    parser.add_argument("--http_server_address", type=str, default="127.0.0.1:6666")
    parser.add_argument("--checkpoint_dir", type=str, default="./fl_ckpt/")
    parser.add_argument("--report", type=str, default="report.jsonl")
    parser.add_argument("--how", type=str, default="here")
    parser.add_argument("--model", type=str, default="map")
    parser.add_argument("--wait_for", type=str, default="")
    return parser.parse_known_args()[0]


args = get_args()


def report(*line):
    with open(args.report, "a") as file:
        file.write(json.dumps(line) + "\n")


class Reporter(Callback):
    def __init__(self):
        super().__init__()
        self.instance_name = _fl_context.fl_context().instance_name()

    def told(self, what, **seen):
        assert threading.current_thread() is threading.main_thread()
        report(what, seen)

    def after_started(self):
        self.told("after_started", pid=os.getpid())
        while args.wait_for and not os.path.exists(args.wait_for):
            time.sleep(0.02)

    def before_stopped(self):
        self.told("before_stopped")
        raise RuntimeError("a callback that fails changes nothing")

    def on_iteration_end(self, context: CallbackContext):
        features = {}
        if isinstance(context.feature_map, FeatureMap):
            for name, item in context.feature_map.feature_map().items():
                assert item.data.dtype == np.float32 and item.feature_name == name
                features[name] = [item.data.tolist(), item.require_aggr]
        else:
            assert context.feature_map == {}
        self.told(
            "on_iteration_end",
            features=features,
            checkpoint_file=context.checkpoint_file,
            fl_name=context.fl_name,
            is_this_instance=context.instance_name == self.instance_name,
            iteration_num=context.iteration_num,
            iteration_valid=context.iteration_valid,
            iteration_result=context.iteration_result,
        )
        raise ValueError("nor does this one")


def create_model():
    if args.model.endswith(".ckpt"):
        return args.model
    if args.model == "dict":
        return {"w": np.array([1, 2, 3], np.float32), "b": np.array(7, np.float32)}
    feature_map = FeatureMap()
    feature_map.add_feature("w", np.array([1, 2, 3], np.float32), require_aggr=True)
    feature_map.add_feature("b", np.array(7, np.float32), require_aggr=False)
    if args.model == "other":
        feature_map.add_feature("c", np.array([1], np.float32))
    if args.model == "not finite":
        feature_map.add_feature("w", np.array([1, np.nan, 3], np.float32))
    if args.model == "empty":
        return {}
    return feature_map


def start_server():
    ssl_config = SSLConfig(
        server_password="server_password_12345", client_password="client_password_12345"
    )
    job = FLServerJob(
        yaml_config=args.yaml_config,
        http_server_address=args.http_server_address,
        checkpoint_dir=args.checkpoint_dir,
        ssl_config=ssl_config,
    )
    report("returned", job.run(create_model(), Reporter()))


def start_server_in_child(pipe):
    try:
        start_server()
        pipe.send(None)
    except Exception as exception:
        pipe.send(exception)


def main():
    if args.how == "here":
        start_server()
        return
    context = multiprocessing.get_context(args.how)
    here, there = context.Pipe()
    child = context.Process(target=start_server_in_child, args=(there,))
    child.start()
    signal.signal(signal.SIGTERM, lambda *_: child.terminate())
    answer = here.recv()
    child.join()
    report("child", type(answer).__name__, str(answer), child.exitcode)


if __name__ == "__main__":
    main()
