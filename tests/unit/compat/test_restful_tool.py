from __future__ import annotations

import importlib
import json
from pathlib import Path
from typing import Any

import pytest

from fl_cluster.compat.finder import install


@pytest.fixture
def tool(clean: pytest.MonkeyPatch) -> Any:
    install()
    return importlib.import_module("mindspore_federated.common._fl_restful_tool")


def test_a_new_instance_is_described_by_numbers(tool: Any) -> None:
    text = "start_fl_job_threshold=3,update_model_ratio=1,client_learning_rate=0.5"

    assert tool.parameters(text) == {
        "start_fl_job_threshold": 3,
        "update_model_ratio": 1.0,
        "client_learning_rate": 0.5,
    }
    with pytest.raises(ValueError, match="expected key=value, got 'x'"):
        tool.parameters("x")


def test_the_newest_line_of_the_metrics_is_shown(
    tool: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "metrics.json"
    arguments = ["--request_name=getInstanceDetail", f"--metrics_file_path={path}", "--unknown=1"]
    answers = []
    for content in (None, "", '{"currentIteration":1}\n{"currentIteration":2}\n'):
        if content is not None:
            path.write_text(content)
        assert tool.main(arguments) == 0
        answers.append(json.loads(capsys.readouterr().out))

    assert answers == [
        {"code": "1", "message": "error. metrics file is not existed."},
        {"code": "1", "message": "error. metrics file has no content"},
        {
            "code": "0",
            "message": "get instance metrics detail successful.",
            "result": {"currentIteration": 2},
        },
    ]


def test_what_cannot_be_asked_is_said(
    tool: Any, capsys: pytest.CaptureFixture[str], free_port: Any
) -> None:
    assert tool.main(["--request_name=fly"]) == 0
    assert tool.main(["--request_name=newInstance"]) == 0
    out = capsys.readouterr().out.splitlines()
    assert out[0] == "error. request_name is not found!"
    assert json.loads(out[1]) == {"code": "1", "message": "error. instance_param is empty."}

    assert tool.main(["--request_name=state", f"--port={free_port()}"]) == 1
    assert "Connection refused" in capsys.readouterr().err
