"""Programs that use the API of the cloud side; they are type-checked, never run."""

from __future__ import annotations

from typing import assert_type

import numpy as np

from fl_cluster import (
    Callback,
    CallbackContext,
    FeatureItem,
    FeatureMap,
    FlSchedulerJob,
    FLServerJob,
    SSLConfig,
    log,
)


class Watch(Callback):
    def after_started(self) -> None:
        log.info("started")

    def on_iteration_end(self, context: CallbackContext) -> None:
        assert_type(context.iteration_num, int)
        if isinstance(context.feature_map, FeatureMap):
            for name, item in context.feature_map.feature_map().items():
                assert_type(name, str)
                assert_type(item, FeatureItem)


def serve() -> None:
    features = FeatureMap()
    item = features.add_feature("w", np.zeros(3, np.float32), require_aggr=False)
    assert_type(item.require_aggr, bool)
    job = FLServerJob("job.yaml", "127.0.0.1:6666", ssl_config=SSLConfig("one", "two"))
    job.run(features, Watch())
    job.run({"w": np.zeros(3, np.float32)})
    job.run("initial.ckpt", callback=None)
    FLServerJob("job.yaml", 6666)  # type: ignore[arg-type]


def schedule() -> None:
    FlSchedulerJob("job.yaml", manage_address="127.0.0.1:11202").run()
