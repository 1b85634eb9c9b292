"""The linter of the scripts finds each thing it is there to find."""

from __future__ import annotations

from importlib.util import module_from_spec, spec_from_file_location
from pathlib import Path
from types import ModuleType

import pytest

ROOT = Path(__file__).resolve().parents[3]

GOOD = """\
-- needs prelude
-- Something happens to the round.
-- KEYS 1 round, 2 claims, then others.  ARGV 1 ref, 2 instant or '', then devices.
-- accepted | late |
-- moved_on.
local round = read(KEYS[1])
if round.ref ~= ARGV[1] then return word('moved_on') end
local now = clock(ARGV[2])  -- not redis.call('GET', key)
if now > 5 then return word('late') end
for i = 3, #ARGV do redis.call('HDEL', KEYS[2], ARGV[i]) end
for i = 3, #KEYS do redis.call('PEXPIRE', KEYS[i], 5) end
redis.call('PUBLISH', ARGV[1], 'word')
return word('accepted')
"""


@pytest.fixture(scope="module")
def check_lua() -> ModuleType:
    spec = spec_from_file_location("check_lua", ROOT / "tools" / "check_lua.py")
    assert spec is not None
    assert spec.loader is not None
    module = module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_a_script_that_says_what_it_does_passes(check_lua: ModuleType) -> None:
    assert list(check_lua.problems("good", GOOD)) == []


@pytest.mark.parametrize(
    ("old", "new", "problem"),
    [
        ("KEYS 1 round, 2 claims", "KEYS 1 round", "KEYS[2] is used and not in the header"),
        ("ARGV 1 ref, 2 instant or ''", "ARGV 2 instant", "ARGV[1] is used and not in"),
        ("-- accepted | late |\n", "-- accepted |\n", "answers 'late', which is not in the header"),
        ("word('late')", "word('moved_on')", "the header lists 'late', which is never answered"),
        ("late", "tardy", "answers 'tardy', which is no verdict"),
        ("'PEXPIRE', KEYS[i]", "'PEXPIRE', 'fl:' .. ARGV[1]", "PEXPIRE gets 'fl:' .. ARGV[1]"),
        ("'PEXPIRE', KEYS[i]", "'PEXPIRE', KEYS[1] .. ':x'", "PEXPIRE gets KEYS[1] .. ':x'"),
        ("'PEXPIRE', KEYS[i]", "'PEXPIRE', key", "PEXPIRE gets key, which is no KEYS[n]"),
        ("read(KEYS[1])", "read(ARGV[1])", "a function of the prelude gets ARGV[1]"),
        ("redis.call('HDEL'", "redis.call(ARGV[2]", "runs ARGV[2], whose name is not written out"),
        ("redis.call('HDEL', KEYS[2]", "redis.call('FLUSHALL'", "FLUSHALL gets ARGV[i]"),
        ("-- needs prelude\n", "", "uses the prelude, but does not begin with"),
        ("local now", "\n" * 40 + "local now", "has 53 lines, at most 50"),
        ("something", "x" * 80 + " something", "at most 100"),
    ],
)
def test_a_script_that_does_not_is_found(
    check_lua: ModuleType, old: str, new: str, problem: str
) -> None:
    text = GOOD.replace("Something", "something")
    assert old in text

    found = list(check_lua.problems("bad", text.replace(old, new)))

    assert any(problem in sentence for sentence in found), found


def test_the_prelude_may_use_the_keys_of_its_callers(check_lua: ModuleType) -> None:
    text = "local function read(key) return redis.call('HGETALL', key) end\n" * 60

    assert list(check_lua.problems("prelude", text)) == []
    assert list(check_lua.problems("prelude", text.replace(", key)", ", 'fl:x')")))


def test_the_scripts_of_the_store_pass(check_lua: ModuleType) -> None:
    assert check_lua.main([]) == 0


def test_a_folder_without_scripts_does_not_pass(check_lua: ModuleType, tmp_path: Path) -> None:
    assert check_lua.main([str(tmp_path)]) == 1
