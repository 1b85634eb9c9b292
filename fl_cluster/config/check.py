"""Holds the entries of a configuration against the tables of keys.

Everything wrong is found at once, in the order in which the original looks, so the first
problem is, word for word, the one the original would have stopped at.  A value with a problem
counts as its default for the checks that follow.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field

from fl_cluster.config.addresses import without_login
from fl_cluster.config.combinations import Axis, Outcome, judge
from fl_cluster.config.document import Entry
from fl_cluster.config.keys import BLOCKS, KEYS
from fl_cluster.config.masking import FAILS, MaskNumbers, why_impossible
from fl_cluster.config.problems import Remark, SettingProblem
from fl_cluster.config.ring import find_impossible, find_refusals
from fl_cluster.config.rules import FAILED, INT64_MAX, OneOf, OneServerMode, Readable, Value, single
from fl_cluster.config.schema import Role
from fl_cluster.config.tables import Block, Key, Kind

MAX_NAME_BYTES = 160
"""A file name may have 255; checkpoints add up to 60 to the name of the job."""

ADDRESS = "distributed_cache.address"
LINK_FAILED = "Link to distributed cache failed, distributed cache address:"
"""The original's words; it takes any text for an address, until it connects."""

NO_ENTRY = Entry("nothing", None, "")


@dataclass(slots=True)
class Checked:
    """The outcome: a value for every key of the blocks looked at, and what is wrong."""

    file: str
    values: dict[str, Value] = field(default_factory=dict)
    problems: list[SettingProblem] = field(default_factory=list)
    ours: list[SettingProblem] = field(default_factory=list)
    """What the original does not mind, or not yet when it reads the file."""
    remarks: list[Remark] = field(default_factory=list)


def check(entries: Mapping[str, Entry], role: Role, file: str) -> Checked:
    """Check what `role` looks at; other sections may hold anything."""
    checked = Checked(file)
    checked.problems += _too_long_numbers(entries, file)
    for block in BLOCKS:
        if block.server_only and role is Role.SCHEDULER:
            continue
        applies = block.applies(checked.values)
        for key in block.keys:
            path = block.path(key)
            fallback: Value = "" if key.default is None else key.default
            value = _Check(block, key, entries, checked).value() if applies else None
            value = fallback if value is None else value
            checked.values[path] = single(value) if isinstance(value, float) else value
        if block.name == "unsupervised":
            _check_sample_count(checked)
    if role is Role.SERVER:
        _settle_combination(checked)
        _check_masking(checked)
        if not checked.problems and (impossible := find_impossible(checked.values, file)):
            checked.ours.append(impossible)
        checked.remarks += find_refusals(checked.values)
    _check_name(checked)
    checked.problems += checked.ours
    return checked


def _too_long_numbers(entries: Mapping[str, Entry], file: str) -> Iterator[SettingProblem]:
    """The original cannot hand these over to its checks, and so reports nothing else."""
    for path, entry in entries.items():
        if path in KEYS and _is_too_long(entry):
            message = (
                f"The parameter '{path}' is an integer that does not fit 64 bits, "
                f"yaml config file: {file}"
            )
            shown = str(entry.value)[:40]
            yield SettingProblem(path, message, file=file, origin=entry.origin, found=shown)


def _is_too_long(entry: Entry) -> bool:
    return entry.kind == "int" and not -INT64_MAX - 1 <= int(entry.value or 0) <= INT64_MAX


class _Check:
    """The check of one key."""

    def __init__(
        self, block: Block, key: Key, entries: Mapping[str, Entry], checked: Checked
    ) -> None:
        self._block = block
        self._key = key
        self._path = block.path(key)
        self._entry = entries.get(self._path, NO_ENTRY)
        self._has_section = not block.name or block.name in entries
        self._checked = checked

    def value(self) -> Value | None:
        """The value in the key's type; None when there is none or, with a problem, none fits."""
        entry, key = self._entry, self._key
        if _is_too_long(entry):
            return None
        is_text = key.kind is Kind.STR and entry.kind == "str"
        if entry.is_absent or (is_text and entry.value == ""):
            if key.required:
                self._complain(f"The parameter '{self._path}' is missing", self._note_on_absence())
            return None
        value = self._in_type(entry)
        if value is None:
            stray = "<< " if key.kind is Kind.STR else ""
            message = (
                f"The parameter '{self._path}' is expected to be type {key.kind}, "
                f"actually {stray}{entry.kind}"
            )
            self._complain(message, self._note_on_type())
            return None
        complaint = key.rule.complaint(self._path, value) if key.rule else None
        if complaint is not None:
            self._complain(self._in_full(complaint), names_file=False)
            return None
        return value

    def _in_full(self, complaint: str) -> str:
        """The complaint as a whole sentence, with what comes before and behind it."""
        rule, named = self._key.rule, f"{complaint}, yaml config file: {self._checked.file}"
        if isinstance(rule, OneServerMode):
            # The original's sentence about the server mode ends without the file's name.
            return complaint
        if isinstance(rule, OneOf):
            return f"{named}{rule.afterword}"
        if self._path == ADDRESS:
            address = without_login(str(self._entry.value))
            is_tls = int(self._checked.values["enable_ssl"] is True)
            return f"{LINK_FAILED} {address}, enable ssl: {is_tls}: {named}"
        return named

    def _in_type(self, entry: Entry) -> Value | None:
        if self._key.kind is Kind.FLOAT and entry.kind in ("int", "float"):
            assert isinstance(entry.value, int | float)
            try:
                return single(float(entry.value))
            except OverflowError:
                return math.inf
        if self._key.takes_scalars and entry.value is not None:
            return str(entry.value)
        return entry.value if entry.kind == self._key.kind else None

    def _complain(self, message: str, note: str = "", *, names_file: bool = True) -> None:
        file = self._checked.file
        is_ours = isinstance(self._key.rule, Readable) and FAILED in message
        (self._checked.ours if is_ours else self._checked.problems).append(
            SettingProblem(
                self._path,
                f"{message}, yaml config file: {file}" if names_file else message,
                file=file,
                origin=self._entry.origin,
                found=self._shown(),
                allowed=self._allowed(),
                example=self._example(),
                note=note,
            )
        )

    def _shown(self) -> str:
        value = self._entry.value
        if self._key.is_secret and value:
            return "(not shown)"
        if self._entry.kind == "dict":
            return "a section"
        if value is None:
            return self._entry.kind
        if isinstance(value, bool):
            return str(value).lower()
        return repr(without_login(value)) if isinstance(value, str) else str(value)[:40]

    def _allowed(self) -> str:
        if self._key.rule is not None:
            return self._key.rule.allowed
        return {Kind.STR: "text", Kind.BOOL: "true or false"}.get(self._key.kind, "a number")

    def _example(self) -> str:
        key = self._key
        example = key.example or (str(key.default) if key.default not in (None, "") else "")
        return f"{key.name}: {example}" if example else ""

    def _note_on_absence(self) -> str:
        if not self._has_section:
            return f"the section '{self._block.name}' is missing"
        if self._entry.origin and self._entry.kind != "nothing" and self._entry.value is None:
            return f"what is there is {self._entry.kind}, which does not count; put it in quotes"
        return ""

    def _note_on_type(self) -> str:
        value, kind = self._entry.value, self._key.kind
        if kind is Kind.STR and self._entry.kind != "dict":
            return "put it in quotes"
        if kind in (Kind.INT, Kind.FLOAT) and isinstance(value, str):
            try:
                number = float(value)
            except ValueError:
                return ""
            shown = str(int(number)) if kind is Kind.INT and number.is_integer() else str(number)
            if "e" in shown and "." not in shown:
                shown = shown.replace("e", ".0e")  # without a point it is text again
            return f"to YAML this is text; write {shown}"
        return ""


def _check_sample_count(checked: Checked) -> None:
    values = checked.values
    path = "unsupervised.cluster_client_num"
    if values["unsupervised.eval_type"] != "NOT_EVAL" and not values[path]:
        message = "Cluster client num is <= 0 when unsupervised eval mode is opened."
        checked.problems.append(
            SettingProblem(
                path,
                message,
                file=checked.file,
                allowed="a whole number of at least 1",
                example="cluster_client_num: 2000",
            )
        )


def _check_name(checked: Checked) -> None:
    """The name becomes part of Redis keys, whose braces have a meaning, and of file names."""
    name = str(checked.values["fl_name"])
    reason = ""
    if any(character in "{}/" or not character.isprintable() for character in name):
        reason = "braces, slashes and characters that do not print are not allowed in it"
    elif len(name.encode()) > MAX_NAME_BYTES:
        reason = f"it is longer than {MAX_NAME_BYTES} bytes"
    if reason:
        checked.ours.append(
            SettingProblem(
                "fl_name",
                f"The parameter 'fl_name' cannot be used: {reason}, "
                f"yaml config file: {checked.file}",
                file=checked.file,
                found=repr(name[:MAX_NAME_BYTES]),
                example="fl_name: Lenet",
            )
        )


def _settle_combination(checked: Checked) -> None:
    """What does not go together is refused with its reason, or changed where the original does."""
    values = checked.values
    judgement = judge({axis: str(values[axis]) for axis in Axis})
    for row in judgement.rows:
        what = " with ".join(f"'{axis}' {values[axis]}" for axis in row.when)
        match row.outcome:
            case Outcome.FORCED:
                sentence = f"{what}: {row.reason}; {row.instead}"
                checked.remarks.append(Remark(sentence, tuple(row.forced), is_change=True))
            case Outcome.WARNED:
                sentence = f"{what}: {row.reason}; write {row.instead}"
                checked.remarks.append(Remark(sentence, tuple(row.when)))
            case Outcome.REFUSED:
                path = list(row.when)[-1]
                message = (
                    f"{what} does not go together, because {row.reason}; write {row.instead}, "
                    f"yaml config file: {checked.file}"
                )
                checked.ours.append(SettingProblem(path, message, file=checked.file))
    for axis, value in judgement.forced.items():
        values[axis] = value


def _check_masking(checked: Checked) -> None:
    """With too few devices to rebuild the masks, no masked round could ever end well."""
    values = checked.values
    if values["encrypt.encrypt_type"] != "PW_ENCRYPT" or checked.problems:
        return
    path = "encrypt.pw_encrypt.reconstruct_secrets_threshold"
    threshold = int(values[path])
    numbers = MaskNumbers(
        int(values["round.start_fl_job_threshold"]),
        float(values["round.update_model_ratio"]),
        float(values["encrypt.pw_encrypt.share_secrets_ratio"]),
        threshold,
    )
    why = why_impossible(numbers)
    if why is not None:
        goal = numbers.report_goal
        message = (
            f"{FAILS} The parameter '{path}' is {threshold}, but {why}, "
            f"yaml config file: {checked.file}"
        )
        checked.problems.append(
            SettingProblem(
                path,
                message,
                file=checked.file,
                found=str(threshold),
                allowed=f"at most {max(goal - 1, 0)} with this round section",
            )
        )
