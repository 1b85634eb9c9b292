"""What each verdict is on the wire: one table per request, total over the verdicts.

In the FlatBuffers protocol a refusal is part of a 200 answer: a code, and a sentence that
existing devices know by heart.  In msgpack the HTTP status tells the truth and the verdict
is a word.  The sentences are wire constants.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum

from fl_cluster.rounds.events import Verdict
from fl_cluster.wire.messages import ResponseCode


class Word(StrEnum):
    """Answers that no round gives: they are about the request or about the job."""

    NOT_READY = "not_ready"
    INVALID = "invalid"
    OUT_OF_RANGE = "out_of_range"
    TOO_LARGE = "too_large"
    JOB_FINISHED = "job_finished"
    JOB_DISABLED = "job_disabled"
    UNAVAILABLE = "unavailable"


class Retry(StrEnum):
    """When a refused device may come back."""

    NEVER = "never"
    SOON = "soon"
    NEXT_ROUND = "next_round"


@dataclass(frozen=True, slots=True)
class Refusal:
    """One answer: `text` is filled with device, number, current and time."""

    word: str
    code: ResponseCode
    status: int
    retry: Retry
    text: str
    is_plain: bool = False
    """Existing devices know this one as plain text, and search for it."""
    native_text: str = ""
    """What devices of the SDK are told instead, where existing ones expect too little."""


SAFEMODE = "The cluster is in safemode."
DISABLED_OR_FINISHED = "The server's training job is disabled or finished."
INNER_ERROR = "An inner error occurred"

NOT_NOW = Refusal(
    Word.UNAVAILABLE, ResponseCode.OutOfTime, 503, Retry.SOON, "The cluster cannot answer now."
)
"""For verdicts between members, which no device causes and none should see."""

JOB_FINISHED = Refusal(
    Word.JOB_FINISHED,
    ResponseCode.OutOfTime,
    410,
    Retry.NEVER,
    DISABLED_OR_FINISHED,
    is_plain=True,
)
JOB_DISABLED = Refusal(
    Word.JOB_DISABLED,
    ResponseCode.OutOfTime,
    503,
    Retry.SOON,
    DISABLED_OR_FINISHED,
    is_plain=True,
)
UNAVAILABLE = Refusal(
    Word.UNAVAILABLE, ResponseCode.OutOfTime, 503, Retry.SOON, SAFEMODE, is_plain=True
)

_BETWEEN_MEMBERS = (
    Verdict.MOVED_ON,
    Verdict.LATE,
    Verdict.PENDING,
    Verdict.TOO_EARLY,
    Verdict.UNCLAIMED,
    Verdict.NOT_AGGREGATED,
    Verdict.FENCED,
    Verdict.NOTHING_TO_FINISH,
    Verdict.LEASED,
    Verdict.LEASE_LOST,
    Verdict.ALREADY_DISABLED,
    Verdict.ALREADY_ENABLED,
)

_CHECK_IN_FULL = Refusal(
    Verdict.COHORT_FULL,
    ResponseCode.OutOfTime,
    429,
    Retry.NEXT_ROUND,
    "Current amount for startFLJob has reached the threshold. Please startFLJob later.",
)

CHECK_IN: dict[Verdict, Refusal] = {
    Verdict.COHORT_FULL: _CHECK_IN_FULL,
    Verdict.ENOUGH: _CHECK_IN_FULL,
    Verdict.ALREADY_CHECKED_IN: Refusal(
        Verdict.ALREADY_CHECKED_IN,
        ResponseCode.OutOfTime,
        409,
        Retry.NEXT_ROUND,
        "Updating device metadata failed for fl id {device}",
    ),
    Verdict.JOB_DISABLED: JOB_DISABLED,
    Verdict.JOB_FINISHED: JOB_FINISHED,
    Verdict.NOT_IN_COHORT: NOT_NOW,
    Verdict.STALE_ROUND: NOT_NOW,
    Verdict.DUPLICATE: NOT_NOW,
    Verdict.UNPREPARED: NOT_NOW,
} | dict.fromkeys(_BETWEEN_MEMBERS, NOT_NOW)

REPORT: dict[Verdict, Refusal] = {
    Verdict.ENOUGH: Refusal(
        Verdict.ENOUGH,
        ResponseCode.OutOfTime,
        429,
        Retry.NEXT_ROUND,
        "Current amount for updateModel is enough. Please retry later.",
    ),
    Verdict.NOT_IN_COHORT: Refusal(
        Verdict.NOT_IN_COHORT,
        ResponseCode.OutOfTime,
        409,
        Retry.NEXT_ROUND,
        "devices_meta for {device} is not set. Please retry later.",
    ),
    Verdict.STALE_ROUND: Refusal(
        Verdict.STALE_ROUND,
        ResponseCode.OutOfTime,
        409,
        Retry.NEXT_ROUND,
        "UpdateModel iteration number is invalid:{number}, current iteration:{current},"
        " Retry later at time: {time}, fl id is {device}",
    ),
    Verdict.DUPLICATE: Refusal(
        Verdict.DUPLICATE,
        ResponseCode.OutOfTime,
        409,
        Retry.NEXT_ROUND,
        "Updating metadata of UpdateModelClientList failed for fl id {device}",
    ),
    Verdict.UNPREPARED: Refusal(
        Verdict.UNPREPARED,
        ResponseCode.OutOfTime,
        409,
        Retry.NEXT_ROUND,
        "fl_id: {device} is not in get_secrets_clients. Please retry later.",
        native_text="The update came before the device had got the others' shares, so it has no"
        " part in this round.",
    ),
    Verdict.JOB_DISABLED: JOB_DISABLED,
    Verdict.JOB_FINISHED: JOB_FINISHED,
    Verdict.COHORT_FULL: NOT_NOW,
    Verdict.ALREADY_CHECKED_IN: NOT_NOW,
} | dict.fromkeys(_BETWEEN_MEMBERS, NOT_NOW)

UNFIT = Refusal(
    Word.INVALID,
    ResponseCode.RequestError,
    400,
    Retry.NEVER,
    "Verify model feature map failed, retry later at time: {time}",
)

CHECK_IN_SCHEMA = Refusal(
    Word.INVALID,
    ResponseCode.RequestError,
    400,
    Retry.NEVER,
    "The schema of RequestFLJob is invalid.",
)
CHECK_IN_FIELDS = Refusal(
    Word.INVALID,
    ResponseCode.RequestError,
    400,
    Retry.NEVER,
    "Verify flatbuffers schema failed for RequestFLJob.",
    is_plain=True,
)
NATIVE_ONLY = Refusal(
    Word.INVALID,
    ResponseCode.RequestError,
    400,
    Retry.NEVER,
    "This job adds updates under masks that only devices of fl_cluster can make (encrypt_type"
    " SECURE_AGGREGATION): use the SDK of fl_cluster, or ask whoever runs the job for PW_ENCRYPT.",
)
"""For devices that speak FlatBuffers."""
EXISTING_ONLY = Refusal(
    Word.INVALID,
    ResponseCode.RequestError,
    400,
    Retry.NEVER,
    "The devices of this job lay one mask over all tensors in a row (pw_mask_layout: running), and"
    " this one begins anew with each: ask whoever runs the job for pw_mask_layout: restart.",
)
"""For devices of the SDK: two layouts in one cohort would spoil the sum."""
DATA_SIZE_SMALL = Refusal(
    Word.INVALID,
    ResponseCode.OutOfTime,
    400,
    Retry.NEVER,
    "FL job data size is not enough.",
)
DATA_SIZE_LARGE = Refusal(
    Word.INVALID,
    ResponseCode.OutOfTime,
    400,
    Retry.NEVER,
    "FL job data size is too large.",
)
REPORT_SCHEMA = Refusal(
    Word.INVALID,
    ResponseCode.RequestError,
    400,
    Retry.NEVER,
    "The schema of RequestUpdateModel is invalid.",
)
REPORT_FIELDS = Refusal(
    Word.INVALID,
    ResponseCode.RequestError,
    400,
    Retry.NEVER,
    "Verify flatbuffers schema failed for RequestUpdateModel.",
)
MODEL_SCHEMA = Refusal(
    Word.INVALID,
    ResponseCode.RequestError,
    400,
    Retry.NEVER,
    "The schema of RequestGetModel is invalid.",
)
MODEL_NOT_READY = Refusal(
    Word.NOT_READY,
    ResponseCode.SucNotReady,
    202,
    Retry.SOON,
    "The model is not ready yet for iteration {number}. Maybe this is because\n"
    "1. Client doesn't not send enough update model request.\n"
    "2. Worker has not push weights to server.",
)

NOT_AGGREGATED = Refusal(
    Verdict.NOT_AGGREGATED,
    ResponseCode.SucNotReady,
    202,
    Retry.SOON,
    "The aggregation for the weights is not done yet.",
)
PULL_SCHEMA = Refusal(
    Word.INVALID,
    ResponseCode.RequestError,
    400,
    Retry.NEVER,
    "The schema of RequestPushWeight is invalid.",
)
"""The original names the wrong request, and so do we."""
PULL_OTHER_ROUND = Refusal(
    Verdict.STALE_ROUND,
    ResponseCode.SucNotReady,
    409,
    Retry.SOON,
    "PullWeight iteration {number} is invalid. Server current iteration: {current}",
)
PULL_NO_NAMES = Refusal(
    Word.INVALID, ResponseCode.RequestError, 400, Retry.NEVER, "weights_names_fbs is nullptr."
)
PULL_UNKNOWN_NAME = Refusal(
    Word.INVALID,
    ResponseCode.RequestError,
    400,
    Retry.NEVER,
    "Parameter {name} is not registered in server.",
)
PUSH_SCHEMA = Refusal(
    Word.INVALID,
    ResponseCode.SucNotReady,
    400,
    Retry.NEVER,
    "The schema of RequestPushWeight is invalid.",
)
PUSH_OTHER_ROUND = Refusal(
    Verdict.STALE_ROUND,
    ResponseCode.SucNotReady,
    409,
    Retry.SOON,
    "PushWeight iteration number is invalid:{number}, current iteration:{current}",
)
PUSH_NOTHING = Refusal(
    Word.INVALID,
    ResponseCode.SucNotReady,
    400,
    Retry.NEVER,
    "PushWeight feature map is empty.",
)
PUSH_MISFIT = Refusal(
    Word.INVALID, ResponseCode.SucNotReady, 400, Retry.NEVER, "Pushing weight failed."
)
METRICS_SCHEMA = Refusal(
    Word.INVALID,
    ResponseCode.RequestError,
    400,
    Retry.NEVER,
    "The schema of RequestPushMetrics is invalid.",
)
