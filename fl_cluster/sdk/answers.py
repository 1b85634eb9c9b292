"""From what servers say to what a device can use.

An answer that contradicts itself is as good as none: it raises `NoAnswer`, and the device asks
again, somewhere else if it can.
"""

from __future__ import annotations

import math
import time

from fl_cluster.sdk.participation import NotReady, Refused
from fl_cluster.sdk.training import RoundPlan, Weights
from fl_cluster.sdk.transport import Answer, NoAnswer, Reply
from fl_cluster.wire.messages import FeatureMap, FLPlan, ResponseFLJob, ResponseGetModel

DEFAULT_RETRY_MS = 200
"""When to ask again for what is not ready, if the server does not say."""


def now_ms() -> int:
    """Now, on a clock that only goes forward."""
    return int(time.monotonic() * 1000)


def refused(answer: Answer[Reply], rounds_total: int = 0) -> Refused:
    """The event that this refusal is."""
    return Refused(answer.verdict, answer.retry_after_ms, answer.reason, now_ms(), rounds_total)


def not_ready(answer: Answer[Reply]) -> NotReady:
    """The event that this answer is, which says to ask again."""
    retry_after_ms = answer.retry_after_ms
    return NotReady(DEFAULT_RETRY_MS if retry_after_ms is None else retry_after_ms, now_ms())


def plan_of(number: int, plan: FLPlan) -> RoundPlan:
    """The plan in the user's words, of the round with this number."""
    return RoundPlan(
        round_number=number,
        rounds_total=plan.iterations,
        epochs=plan.epochs,
        batch_size=plan.mini_batch,
        learning_rate=plan.lr,
        server_mode=plan.server_mode or "",
        job_name=plan.fl_name or "",
    )


def model_of(message: ResponseFLJob | ResponseGetModel) -> Weights:
    """The model that the answer carries, in whatever form; NoAnswer when it makes no sense."""
    if message.download_compress_type == 0:
        return tensors(message.feature_map)
    from fl_cluster.compression.quant import Chunk, dequantise

    weights: Weights = {}
    for entry in message.compress_feature_map or ():
        name, quants = entry.weight_fullname, entry.compress_data
        if name is None or quants is None:
            raise NoAnswer("the answer has a tensor without a name or without values")
        values = dequantise(Chunk(quants, entry.min_val, entry.max_val))
        weights |= tensors((FeatureMap(name, values, entry.shape),))
    return weights


def tensors(features: tuple[FeatureMap, ...] | None) -> Weights:
    """The model by name, shaped; NoAnswer when the answer contradicts itself."""
    weights: Weights = {}
    for feature in features or ():
        if feature.weight_fullname is None or feature.data is None:
            raise NoAnswer("the answer has a tensor without a name or without values")
        shape = feature.data.shape if feature.shape is None else feature.shape
        if min(shape, default=0) < 0 or math.prod(shape) != feature.data.size:
            raise NoAnswer(
                f"the answer has {feature.data.size} values for tensor"
                f" {feature.weight_fullname!r} of shape {shape}"
            )
        weights[feature.weight_fullname] = feature.data.reshape(shape)
    return weights
