"""One line per message, for people or machines, and no secret in either."""

from __future__ import annotations

import io
import json
import logging
import os
import re

import pytest

from fl_cluster.errors import ConfigError
from fl_cluster.telemetry.logs import configure, event, level_in_force

LOG = logging.getLogger("fl_cluster.service.collect")


@pytest.fixture
def stream():
    root, package = logging.getLogger(), logging.getLogger("fl_cluster")
    handlers, level = list(root.handlers), package.level
    yield io.StringIO()
    root.handlers[:] = handlers
    package.setLevel(level)


def test_a_line_has_time_level_process_area_message_and_fields(stream):
    configure("INFO", "text", stream)

    event(LOG, logging.INFO, "update counted", device="c1", round=3, note="two words")

    pattern = (
        r"\d{4}-\d\d-\d\d \d\d:\d\d:\d\d\.\d{3} INFO fl_cluster\[%d\] service\.collect: "
        r'update counted device=c1 round=3 note="two words"\n'
    )
    assert re.fullmatch(pattern % os.getpid(), stream.getvalue())


def test_a_plain_message_is_logged_with_its_arguments(stream):
    configure("INFO", "text", stream)

    LOG.warning("%d of %d", 1, 2)

    assert stream.getvalue().endswith(
        f"WARNING fl_cluster[{os.getpid()}] service.collect: 1 of 2\n"
    )


def test_a_percent_sign_in_an_event_is_only_a_percent_sign(stream):
    configure("INFO", "text", stream)

    event(LOG, logging.INFO, "100% of %s")

    assert "100% of %s\n" in stream.getvalue()


def test_a_json_line_is_one_object(stream):
    configure("INFO", "json", stream)

    event(LOG, logging.ERROR, "lost\nit", device="c1", loss=0.5, level="fake", nothing=None)

    line = json.loads(stream.getvalue())
    assert stream.getvalue().count("\n") == 1
    assert line["level"] == "ERROR"
    assert line["area"] == "service.collect"
    assert line["message"] == "lost\nit"
    assert line["pid"] == os.getpid()
    assert (line["device"], line["loss"], line["nothing"]) == ("c1", 0.5, None)
    assert line["time"].endswith("+00:00")


@pytest.mark.parametrize("log_format", ["text", "json"])
def test_messages_below_the_level_are_not_logged(stream, log_format):
    configure("WARNING", log_format, stream)

    event(LOG, logging.INFO, "quiet")
    event(LOG, logging.WARNING, "loud")

    assert "quiet" not in stream.getvalue()
    assert "loud" in stream.getvalue()


def test_other_libraries_are_heard_from_warning_up(stream):
    configure("DEBUG", "text", stream)

    logging.getLogger("asyncio").info("chatter")
    logging.getLogger("asyncio").warning("trouble")

    assert "chatter" not in stream.getvalue()
    assert "asyncio: trouble" in stream.getvalue()


def test_configuring_again_replaces_the_handler(stream):
    configure("INFO", "text", io.StringIO())
    configure("INFO", "text", stream)

    LOG.info("once")

    assert stream.getvalue().count("once") == 1


@pytest.mark.parametrize("log_format", ["text", "json"])
def test_secrets_are_blotted_out(stream, log_format):
    configure("INFO", log_format, stream)

    event(
        LOG,
        logging.INFO,
        "to redis://u:hunter2@h:1",
        redis_password="hunter2",
        url="redis://:hunter2@h",
    )
    try:
        raise OSError("cannot reach redis://u:hunter2@h:1")
    except OSError:
        LOG.exception("failed")

    assert "hunter2" not in stream.getvalue()
    assert "redis://***@h:1" in stream.getvalue()


@pytest.mark.parametrize("log_format", ["text", "json"])
def test_tokens_are_blotted_out(stream, log_format):
    configure("INFO", log_format, stream)

    LOG.info("got flt_0123456789abcdef and Authorization: Bearer made-up-by-hand-7, not flt_")
    event(LOG, logging.INFO, "got", header="bearer another-made-up")

    assert "0123456789abcdef" not in stream.getvalue()
    assert "made-up" not in stream.getvalue()
    assert "not flt_" in stream.getvalue()


def test_a_line_break_from_a_device_cannot_fake_a_line(stream):
    configure("INFO", "text", stream)
    fake = "c1\n2026-01-01 00:00:00.000 INFO fl_cluster[1] x: fake"

    event(LOG, logging.INFO, "seen", device=fake)
    LOG.info("seen %s", fake)

    lines = stream.getvalue().splitlines()
    assert not any(line.startswith("2026-01-01 00:00:00.000") for line in lines)
    assert json.dumps(fake) in lines[0]


@pytest.mark.parametrize("log_format", ["text", "json"])
def test_an_exception_is_logged_with_its_traceback(stream, log_format):
    configure("INFO", log_format, stream)

    try:
        raise ValueError("reason")
    except ValueError:
        LOG.exception("failed")

    assert "Traceback" in stream.getvalue()
    assert "ValueError: reason" in stream.getvalue()


@pytest.mark.parametrize(
    ("number", "level"), [("0", "DEBUG"), ("1", "INFO"), ("2", "WARNING"), ("3", "ERROR")]
)
def test_the_originals_variable_wins_over_the_configuration(number, level):
    assert level_in_force("INFO", {"GLOG_v": number}) == level


def test_without_the_variable_the_configuration_counts():
    assert level_in_force("ERROR", {}) == "ERROR"


@pytest.mark.parametrize("number", ["", "4", "-1", "INFO"])
def test_a_wrong_variable_is_told_in_the_originals_words(number):
    words = (
        f"Incorrect log level:{number}, Please check the configuration of GLOG_v or "
        "GLOG_stderrthreshold, desired log level :"
    )

    with pytest.raises(ConfigError) as caught:
        level_in_force("INFO", {"GLOG_v": number})

    assert caught.value.problems[0].message.startswith(words)
