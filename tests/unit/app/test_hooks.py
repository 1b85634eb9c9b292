from __future__ import annotations

import threading

import pytest

from fl_cluster.app.hooks import NoHooks, Occasions


class Listener(NoHooks):
    """Remembers what it was told, and is not in the event loop's thread when it is."""

    def __init__(self) -> None:
        self.told: list[str] = []

    def started(self) -> None:
        assert threading.current_thread() is not threading.main_thread()
        self.told.append("started")
        raise RuntimeError("a program's own mistake")

    def stopping(self) -> None:
        assert threading.current_thread() is not threading.main_thread()
        self.told.append("stopping")


async def test_the_end_is_told_once_and_outside_the_event_loop() -> None:
    listener = Listener()
    occasions = Occasions(listener)

    await occasions.stopping()
    await occasions.stopping()

    assert listener.told == ["stopping"]


async def test_what_a_hook_raises_ends_in_the_log(caplog: pytest.LogCaptureFixture) -> None:
    listener = Listener()

    await Occasions(listener).started()

    assert listener.told == ["started"]
    assert "a hook of the program failed" in caplog.text
    assert "a program's own mistake" in caplog.text
