"""Which settings go together: one table, from which the check and the documentation come.

A combination is allowed unless a row says otherwise.  Rows refuse what would silently lose a
guarantee or could never work, force what the original forces, and warn where a guarantee covers
less than one may think.  Values are those of the configuration file.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from itertools import product
from typing import Final

from fl_cluster.config.schema import (
    AggregationType,
    DownloadCompression,
    EncryptType,
    EvalType,
    NoiseKind,
    ServerMode,
    UploadCompression,
)


class Axis(StrEnum):
    """A setting that the table is about, by its path in the file."""

    MODE = "server_mode"
    ENCRYPT = "encrypt.encrypt_type"
    UPLOAD = "compression.upload_compress_type"
    DOWNLOAD = "compression.download_compress_type"
    AGGREGATION = "aggregation.aggregation_type"
    EVALUATION = "unsupervised.eval_type"
    NOISE = "privacy.noise"


VALUES: Final[Mapping[Axis, tuple[str, ...]]] = {
    Axis.MODE: tuple(ServerMode),
    Axis.ENCRYPT: tuple(EncryptType),
    Axis.UPLOAD: tuple(UploadCompression),
    Axis.DOWNLOAD: tuple(DownloadCompression),
    Axis.AGGREGATION: tuple(AggregationType),
    Axis.EVALUATION: tuple(EvalType),
    Axis.NOISE: tuple(NoiseKind),
}


class Outcome(StrEnum):
    """What happens to a combination, from best to worst."""

    ALLOWED = "allowed"
    WARNED = "allowed, with a warning"
    FORCED = "changed"
    REFUSED = "refused"


_SEVERITY: Final = tuple(Outcome)


@dataclass(frozen=True, slots=True)
class Row:
    """What happens when every named setting has one of the named values, and why."""

    when: Mapping[Axis, tuple[str, ...]]
    outcome: Outcome
    reason: str
    """A sentence that goes on from "because"."""
    instead: str
    """What to write; of a changed setting, what takes its place."""
    forced: Mapping[Axis, str] = field(default_factory=dict)

    def applies(self, chosen: Mapping[Axis, str]) -> bool:
        """Whether the row is about this combination."""
        return all(chosen[axis] in values for axis, values in self.when.items())


@dataclass(frozen=True, slots=True)
class Judgement:
    """What is to be done with a combination, and every row that says so."""

    outcome: Outcome
    rows: tuple[Row, ...]

    @property
    def forced(self) -> Mapping[Axis, str]:
        """Settings that get another value."""
        return {axis: value for row in self.rows for axis, value in row.forced.items()}


_MASKED = (EncryptType.PW_ENCRYPT, EncryptType.STABLE_PW_ENCRYPT, EncryptType.SECURE_AGGREGATION)
_DEVICES = (ServerMode.FEDERATED_LEARNING, ServerMode.HYBRID_TRAINING)
_SILOS = (ServerMode.CLOUD_TRAINING,)
_SPARSE = (UploadCompression.DIFF_SPARSE_QUANT,)
_QUANT = (DownloadCompression.QUANT,)
_SCORES = tuple(value for value in EvalType if value is not EvalType.NOT_EVAL)
_CENTRAL = (NoiseKind.CENTRAL,)
_UPLOAD_PLAIN: Final = {Axis.UPLOAD: UploadCompression.NO_COMPRESS}

ROWS: Final = (
    Row(
        {
            Axis.ENCRYPT: (
                EncryptType.PW_ENCRYPT,
                EncryptType.STABLE_PW_ENCRYPT,
                EncryptType.SIGNDS,
            ),
            Axis.UPLOAD: _SPARSE,
        },
        Outcome.FORCED,
        "devices upload masked values and signs as they are",
        "uploads are not compressed",
        _UPLOAD_PLAIN,
    ),
    Row(
        {Axis.ENCRYPT: (EncryptType.SECURE_AGGREGATION,), Axis.UPLOAD: _SPARSE},
        Outcome.REFUSED,
        "masks cancel only if every bit of every masked value arrives",
        "NO_COMPRESS for uploads",
    ),
    Row(
        {Axis.ENCRYPT: (EncryptType.SECURE_AGGREGATION,), Axis.DOWNLOAD: _QUANT},
        Outcome.FORCED,
        "devices check that all of them start from the same weights, to the bit",
        "downloads are not compressed",
        {Axis.DOWNLOAD: DownloadCompression.NO_COMPRESS},
    ),
    Row(
        {Axis.ENCRYPT: (EncryptType.STABLE_PW_ENCRYPT,), Axis.MODE: _DEVICES},
        Outcome.WARNED,
        "existing devices do not know it, and end their job when it is announced",
        "PW_ENCRYPT or SECURE_AGGREGATION",
    ),
    Row(
        {Axis.ENCRYPT: (EncryptType.PW_ENCRYPT,), Axis.MODE: _SILOS},
        Outcome.WARNED,
        "workers across silos do not exchange shares, and only devices that do can take part",
        "STABLE_PW_ENCRYPT for workers",
    ),
    Row(
        {Axis.ENCRYPT: (EncryptType.SECURE_AGGREGATION,), Axis.MODE: _SILOS},
        Outcome.REFUSED,
        "workers across silos do not exchange shares, so no round could be unmasked",
        "STABLE_PW_ENCRYPT",
    ),
    Row(
        {
            Axis.ENCRYPT: (EncryptType.DP_ENCRYPT, EncryptType.SIGNDS),
            Axis.MODE: _SILOS,
        },
        Outcome.WARNED,
        "workers across silos ignore it and upload plain weights",
        "STABLE_PW_ENCRYPT or NOT_ENCRYPT",
    ),
    Row(
        {Axis.MODE: _SILOS, Axis.UPLOAD: _SPARSE},
        Outcome.WARNED,
        "workers across silos upload uncompressed; only devices that ask for it compress",
        "NO_COMPRESS for uploads of workers",
    ),
    Row(
        {Axis.MODE: _SILOS, Axis.DOWNLOAD: _QUANT},
        Outcome.WARNED,
        "workers across silos download uncompressed; only devices that ask for it get less",
        "NO_COMPRESS for downloads of workers",
    ),
    Row(
        {
            Axis.AGGREGATION: (AggregationType.SCAFFOLD, AggregationType.FED_NOVA),
            Axis.MODE: _DEVICES,
        },
        Outcome.WARNED,
        "devices upload weights, not the control values or normalised steps that it needs",
        "FedAvg or FedProx",
    ),
    Row(
        {
            Axis.AGGREGATION: (AggregationType.SCAFFOLD, AggregationType.FED_NOVA),
            Axis.ENCRYPT: _MASKED,
        },
        Outcome.REFUSED,
        "the control values and step counts beside the weights would not be masked",
        "FedAvg or FedProx",
    ),
    Row(
        {Axis.EVALUATION: _SCORES, Axis.ENCRYPT: (EncryptType.SECURE_AGGREGATION,)},
        Outcome.REFUSED,
        "evaluation data of each device would reach the servers in the clear",
        "NOT_EVAL",
    ),
    Row(
        {
            Axis.EVALUATION: _SCORES,
            Axis.ENCRYPT: (
                EncryptType.PW_ENCRYPT,
                EncryptType.STABLE_PW_ENCRYPT,
                EncryptType.DP_ENCRYPT,
                EncryptType.SIGNDS,
            ),
        },
        Outcome.WARNED,
        "evaluation data of each device reach the servers in the clear",
        "NOT_EVAL if they say too much",
    ),
    Row(
        {Axis.NOISE: _CENTRAL, Axis.ENCRYPT: _MASKED},
        Outcome.REFUSED,
        "servers cannot clip what they cannot read, and without clipping noise protects nobody",
        "NOT_ENCRYPT with central, or none",
    ),
    Row(
        {Axis.NOISE: _CENTRAL, Axis.ENCRYPT: (EncryptType.DP_ENCRYPT,)},
        Outcome.REFUSED,
        "the noise of the devices makes every update so long that clipping cuts it to noise, and "
        "one ledger cannot say what two kinds of noise protect from whom",
        "NOT_ENCRYPT with central, or none",
    ),
    Row(
        {Axis.NOISE: _CENTRAL, Axis.ENCRYPT: (EncryptType.SIGNDS,)},
        Outcome.REFUSED,
        "signs are steps of one size already, and their cost is not one of a clipped sum",
        "NOT_ENCRYPT with central, or none",
    ),
    Row(
        {
            Axis.NOISE: _CENTRAL,
            Axis.AGGREGATION: (AggregationType.SCAFFOLD, AggregationType.FED_NOVA),
        },
        Outcome.REFUSED,
        "control values and step counts are no weights, so the clip norm bounds neither",
        "FedAvg or FedProx",
    ),
    Row(
        {Axis.NOISE: _CENTRAL, Axis.EVALUATION: _SCORES},
        Outcome.WARNED,
        "the score is made of the devices' data without noise, and the ledger does not count it",
        "NOT_EVAL if it says too much",
    ),
)


def judge(chosen: Mapping[Axis, str]) -> Judgement:
    """What is to be done with a combination that names a value on every axis.

    What a row forces is judged again, so that a changed setting is not blamed for what it was.
    """
    settled, rows = dict(chosen), []
    for row in ROWS:
        if row.applies(chosen) and row.outcome is Outcome.FORCED:
            settled.update(row.forced)
            rows.append(row)
    rows += [row for row in ROWS if row.applies(settled) and row.outcome is not Outcome.FORCED]
    outcomes = [row.outcome for row in rows]
    return Judgement(max(outcomes, key=_SEVERITY.index, default=Outcome.ALLOWED), tuple(rows))


def plain(**axes: str) -> dict[Axis, str]:
    """A combination of the defaults, except for the axes given by the names of `Axis`."""
    chosen = {axis: values[0] for axis, values in VALUES.items()}
    return {**chosen, **{Axis[name.upper()]: value for name, value in axes.items()}}


def all_combinations() -> Iterator[dict[Axis, str]]:
    """Every combination there is."""
    for values in product(*VALUES.values()):
        yield dict(zip(VALUES, values, strict=True))


def as_markdown() -> str:
    """The table for the documentation: encryption against everything else, then the reasons."""
    others = [
        (axis, value)
        for axis in Axis
        for value in VALUES[axis]
        if axis is Axis.MODE or (axis is not Axis.ENCRYPT and value != VALUES[axis][0])
    ]
    lines = [
        "| with | " + " | ".join(VALUES[Axis.ENCRYPT]) + " |",
        "| --- |" + " --- |" * len(VALUES[Axis.ENCRYPT]),
    ]
    for axis, value in others:
        cells = [_cell(axis, value, kind) for kind in VALUES[Axis.ENCRYPT]]
        lines.append(f"| `{value}` | " + " | ".join(cells) + " |")
    lines += ["", "| what | then | because | instead |", "| --- | --- | --- | --- |"]
    for row in ROWS:
        what = " and ".join(
            " or ".join(f"`{value}`" for value in values) for values in row.when.values()
        )
        lines.append(f"| {what} | {row.outcome} | {row.reason} | {row.instead} |")
    return "\n".join(lines) + "\n"


def _cell(axis: Axis, value: str, kind: str) -> str:
    """The best outcome over the modes, unless the mode itself is what the line is about."""
    modes = (value,) if axis is Axis.MODE else VALUES[Axis.MODE]
    found = []
    for mode in modes:
        chosen = plain(encrypt=kind, mode=mode)
        chosen[axis] = value
        judgement = judge(chosen)
        found.append(judgement.outcome)
    return min(found, key=_SEVERITY.index)
