"""Passwords of key files: where they come from, and where they never show."""

from __future__ import annotations

import getpass
from pathlib import Path

import pytest

from fl_cluster.errors import StartupError
from fl_cluster.security.passwords import Passwords, read_password_file

ENVIRON = {"FL_CLUSTER_SERVER_PASSWORD": "one", "FL_CLUSTER_CLIENT_PASSWORD": "two"}


@pytest.fixture
def file(tmp_path: Path) -> Path:
    made = tmp_path / "password"
    made.write_text("three\nsomething else\n")
    made.chmod(0o600)
    return made


def test_the_environment_is_looked_at_and_a_file_wins_over_it(file: Path) -> None:
    assert Passwords.of(ENVIRON) == Passwords("one", "two")
    assert Passwords.of(ENVIRON, str(file)) == Passwords("three", "two")
    assert Passwords.of({}, client_file=str(file)) == Passwords("", "three")


def test_what_was_given_wins_over_what_is_known(file: Path) -> None:
    assert Passwords("", "x").over(Passwords("one", "two")) == Passwords("one", "x")


def test_a_child_gets_them_by_its_environment() -> None:
    assert Passwords("one", "two").environment() == ENVIRON
    assert Passwords().environment() == {}


def test_they_are_not_shown() -> None:
    assert "one" not in repr(Passwords("one", "two"))


def test_whoever_sits_at_the_terminal_is_asked_for_what_is_missing(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    asked: list[str] = []

    def typed(prompt: str) -> str:
        asked.append(prompt)
        return "typed"

    monkeypatch.setattr(getpass, "getpass", typed)
    assert Passwords("one").ask(server=True, client=True) == Passwords("one", "typed")
    assert asked == ["Password of the client certificate: "]
    assert Passwords().ask(server=False, client=False) == Passwords()


def test_a_file_that_everybody_reads_is_refused(file: Path) -> None:
    file.chmod(0o644)
    with pytest.raises(StartupError, match=f"--x {file} holds secrets .* chmod 600 {file}"):
        read_password_file(str(file), "--x")


@pytest.mark.parametrize(
    ("content", "sentence"),
    [(b"\nsecond\n", "its first line is empty"), (b"", "is empty"), (b"\xff\n", "expected text")],
)
def test_a_file_without_a_password_is_told_of(file: Path, content: bytes, sentence: str) -> None:
    file.write_bytes(content)
    with pytest.raises(StartupError, match=sentence):
        read_password_file(str(file), "--x")


def test_a_line_of_another_system_ends_where_it_should(file: Path) -> None:
    file.write_bytes(b"three\r\n")
    assert read_password_file(str(file), "--x") == "three"


def test_a_missing_file_is_named() -> None:
    with pytest.raises(StartupError, match="--x /nowhere: No such file"):
        read_password_file("/nowhere", "--x")
