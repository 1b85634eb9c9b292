from __future__ import annotations

import os
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

from fl_cluster.program import log


@pytest.fixture(autouse=True)
def environment(monkeypatch: pytest.MonkeyPatch) -> Iterator[pytest.MonkeyPatch]:
    """No variable is set, and the logger is made anew."""
    for name in [each for each in os.environ if each.startswith(("GLOG_", "logger_"))]:
        monkeypatch.delenv(name)
    log._logger.cache_clear()
    yield monkeypatch
    if log._logger.cache_info().currsize:
        for handler in log._logger().handlers:
            handler.close()
    log._logger.cache_clear()


def test_a_line_has_the_known_shape(capsys: pytest.CaptureFixture[str]) -> None:
    log.warning("%d devices of %s", 3, "Lenet")

    line = capsys.readouterr().err
    assert re.fullmatch(
        r"\[WARNING\] FEDERATED\(\d+:\d+,MainProcess\):"
        r"\d{4}-\d\d-\d\d-\d\d:\d\d:\d\d\.\d{3}\.\d{3} \[test_log\.py:\d+\] 3 devices of Lenet\n",
        line,
    ), line


def test_the_level_is_warning_unless_a_variable_says_otherwise(
    capsys: pytest.CaptureFixture[str], environment: pytest.MonkeyPatch
) -> None:
    log.info("not shown")
    assert (log.get_level(), capsys.readouterr().err) == ("2", "")
    environment.setenv("GLOG_v", "0")
    log._logger.cache_clear()
    log.debug("one")
    log.info("two")
    log.error("three")

    assert log.get_level() == "0"
    assert re.findall(r"^\[(\w+)\]", capsys.readouterr().err, re.MULTILINE) == [
        "DEBUG",
        "INFO",
        "ERROR",
    ]


def test_the_configuration_can_be_asked(environment: pytest.MonkeyPatch, tmp_path: Path) -> None:
    assert log.get_log_config() == {"GLOG_v": "2", "GLOG_logtostderr": "1"}
    environment.setenv("GLOG_logtostderr", "0")
    environment.setenv("GLOG_log_dir", str(tmp_path))
    log._logger.cache_clear()

    assert log.get_log_config() == {
        "GLOG_v": "2",
        "GLOG_logtostderr": "0",
        "GLOG_log_dir": str(tmp_path),
        "logger_maxBytes": "52428800",
        "logger_backupCount": "30",
        "GLOG_stderrthreshold": "2",
    }


def test_lines_go_to_a_file_and_the_severe_ones_to_the_terminal_too(
    environment: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    environment.setenv("GLOG_v", "1")
    environment.setenv("GLOG_logtostderr", "0")
    environment.setenv("GLOG_log_dir", str(tmp_path))
    log.info("quiet")
    log.error("loud")

    path = tmp_path / f"mindspore_federated.log.{os.getpid()}"
    assert [line.split("] ")[-1] for line in path.read_text().splitlines()] == ["quiet", "loud"]
    assert capsys.readouterr().err.endswith("loud\n")
    assert path.stat().st_mode & 0o777 == 0o600


@pytest.mark.parametrize(
    ("variables", "message"),
    [
        ({"GLOG_v": "7"}, "Incorrect log level:7, Please check the configuration of GLOG_v or"),
        (
            {"GLOG_stderrthreshold": "9"},
            "Incorrect log level:9, Please check the configuration of GLOG_v or",
        ),
        ({"GLOG_logtostderr": "2"}, "Incorrect value, The value of GLOG_logtostderr must be 0 or"),
        ({"GLOG_logtostderr": "0"}, "GLOG_log_dir cannot be empty."),
        (
            {"GLOG_logtostderr": "0", "GLOG_log_dir": "/nowhere"},
            "The file path does not exist. GLOG_log_dir:/nowhere",
        ),
        (
            {"GLOG_logtostderr": "0", "GLOG_log_dir": "/tmp", "logger_maxBytes": "-1"},
            "The value of logger_maxBytes must be positive integer. logger_maxBytes:-1",
        ),
        (
            {"GLOG_logtostderr": "0", "GLOG_log_dir": "/tmp", "logger_backupCount": "x"},
            "The value of logger_backupCount must be positive integer. logger_backupCount:x",
        ),
    ],
)
def test_a_variable_that_cannot_be_used_is_told_at_first_use(
    environment: pytest.MonkeyPatch, variables: dict[str, str], message: str
) -> None:
    for name, value in variables.items():
        environment.setenv(name, value)

    with pytest.raises(ValueError, match=re.escape(message)):
        log.warning("anything")
