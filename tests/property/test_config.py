"""Whatever a file says, it ends in settings or in sentences, and never in anything else."""

from __future__ import annotations

import ctypes
import math
import struct
from pathlib import Path
from typing import Any

import pytest
import yaml
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from fl_cluster.config.addresses import parse_address, parse_cache_address
from fl_cluster.config.check import single
from fl_cluster.config.document import parse
from fl_cluster.config.keys import BLOCKS, KEYS, SECTIONS
from fl_cluster.config.layout import indented_text, restore_sections
from fl_cluster.config.load import load
from fl_cluster.config.problems import render_problems
from fl_cluster.errors import ConfigError

BASE = (Path(__file__).resolve().parents[2] / "yamls" / "minimal.yaml").read_text("utf-8")

in_one_folder = settings(suppress_health_check=[HealthCheck.function_scoped_fixture])


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "job.yaml"


def outcome(path: Path, text: str) -> str:
    """What the user sees of `text`: nothing when it is accepted."""
    path.write_text(text, "utf-8", errors="surrogatepass")
    for role in ("server", "scheduler"):
        try:
            load(path, role, environ={})
        except ConfigError as error:
            return told(error)
    return ""


def told(error: ConfigError) -> str:
    """The rendering of an error that has something to say."""
    assert error.problems
    assert all(problem.message for problem in error.problems)
    return render_problems(error)


scalars = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(),
    st.floats(),
    st.text(max_size=20),
    st.dates(),
    st.sampled_from(["FedAvg", "NOT_ENCRYPT", "SIGNDS", "127.0.0.1:1", "embedded", "text"]),
)
values = st.recursive(
    scalars, lambda inner: st.lists(inner, max_size=3) | st.dictionaries(scalars, inner, max_size=3)
)
names = st.sampled_from([*KEYS, *SECTIONS]) | st.text(max_size=8)


@in_one_folder
@given(changes=st.dictionaries(names, values, max_size=6))
def test_any_values_for_any_keys_end_in_settings_or_sentences(path, changes):
    content: dict[Any, Any] = yaml.safe_load(BASE)
    for name, value in changes.items():
        *parents, last = name.split(".")
        node = content
        for parent in parents:
            if not isinstance(node.get(parent), dict):
                node[parent] = {}
            node = node[parent]
        node[last] = value

    outcome(path, yaml.safe_dump(content, sort_keys=False))


@in_one_folder
@given(text=st.text(max_size=200))
def test_any_text_ends_in_settings_or_sentences(path, text):
    outcome(path, text)


@in_one_folder
@given(place=st.integers(0, len(BASE) - 1), inserted=st.text(max_size=3), cut=st.integers(0, 3))
def test_a_damaged_file_ends_in_settings_or_sentences(path, place, inserted, cut):
    outcome(path, BASE[:place] + inserted + BASE[place + cut :])


@in_one_folder
@given(raw=st.binary(max_size=200))
def test_any_bytes_end_in_settings_or_sentences(path, raw):
    path.write_bytes(raw)
    with pytest.raises(ConfigError):
        load(path, "server", environ={})


@in_one_folder
@given(key=st.sampled_from(sorted(KEYS)), text=st.text(max_size=20))
def test_any_override_ends_in_settings_or_sentences(path, key, text):
    path.write_text(BASE, "utf-8")
    try:
        load(path, "server", overrides={key: text}, environ={})
    except ConfigError as error:
        told(error)


# The ending makes each of them a text that occurs nowhere else.
secrets = st.text(st.characters(min_codepoint=33, max_codepoint=126), max_size=12).map(
    lambda text: text + "Zq9xW"
)


@in_one_folder
@given(secret=secrets)
def test_a_password_never_appears_in_what_the_user_sees(path, secret):
    content = yaml.safe_load(BASE)
    content["distributed_cache"]["password"] = secret
    content["fl_iteration_num"] = 0
    broken = yaml.safe_dump(content)
    flat = "".join(line.lstrip(" ") for line in broken.splitlines(keepends=True))
    unquoted = BASE.replace("address:", f"password: {secret}\n  address:")
    in_url = BASE.replace("127.0.0.1", f"redis://u:{secret}@127.0.0.1:x")

    for text in (broken, flat, unquoted, in_url):
        assert secret not in outcome(path, text)


@st.composite
def flat_files(draw: st.DrawFn) -> tuple[str, dict[str, Any]]:
    """A file whose sections are flat, in any order, and what it means."""
    lines: list[str] = []
    meant: dict[str, Any] = {}
    blocks = draw(st.permutations([block for block in BLOCKS if block.name]))
    for block in blocks:
        keys = draw(st.lists(st.sampled_from(block.keys), unique=True, min_size=1))
        if draw(st.booleans()):
            lines.append(f"{block.name.rpartition('.')[2]}:\n")
        for key in keys:
            if draw(st.booleans()):
                lines.append("# a remark\n")
            lines.append(f"{key.name}: 1\n")
            meant[block.path(key)] = 1
    return "".join(lines), meant


@given(flat_files())
def test_the_indented_form_of_a_flat_file_says_what_was_meant(made):
    text, meant = made
    document = parse(text, "job.yaml")

    problem = restore_sections(document)
    again = parse(indented_text(document), "job.yaml")

    assert problem is not None
    found = {path: entry.value for path, entry in again.entries.items() if path in KEYS}
    hidden = {path for path in meant if KEYS[path].is_secret}
    assert {path: value for path, value in found.items() if path not in hidden} == {
        path: value for path, value in meant.items() if path not in hidden
    }
    assert restore_sections(again) is None


@given(st.floats())
def test_single_precision_is_what_the_machine_says_it_is(number):
    kept = single(number)

    expected = ctypes.c_float(number).value
    assert struct.pack("<d", kept) == struct.pack("<d", expected) or math.isnan(kept)
    assert math.isnan(kept) == math.isnan(number)


@given(st.text(max_size=30) | st.from_regex(r"\[?[0-9a-f:.]{1,15}\]?:[0-9]{1,6}", fullmatch=True))
def test_an_address_that_is_accepted_reads_the_same_again(text):
    try:
        address = parse_address(text)
    except ValueError:
        return
    assert parse_address(str(address)) == address


@given(st.text(max_size=30) | st.from_regex(r"(redis|rediss|unix)://?[ -~]{0,20}", fullmatch=True))
def test_a_cache_address_that_is_accepted_reads_the_same_again(text):
    try:
        address = parse_cache_address(text)
    except ValueError:
        return
    again = parse_cache_address(str(address))
    assert (again.kind, again.host, again.port, again.path, again.database) == (
        address.kind,
        address.host,
        address.port,
        address.path,
        address.database,
    )
