"""The C-API lint sees the mistakes that it is for, and nothing in the real sources."""

from __future__ import annotations

import importlib.util
import shutil
import subprocess
import sys
from pathlib import Path
from types import ModuleType

import pytest

ROOT = Path(__file__).resolve().parents[2]

GOOD = """
static PyThreadState *
give_lock(void)
{
    return PyEval_SaveThread();
}

static void
take_lock(PyThreadState *thread)
{
    PyEval_RestoreThread(thread);
}

static int
acquire_bytes(PyObject *arg, Py_buffer *view)
{
    if (PyObject_GetBuffer(arg, view, PyBUF_SIMPLE) < 0) {
        return -1;
    }
    if (view->len == 0) {
        goto release;
    }
    return 0;

release:
    PyBuffer_Release(view);
    return -1;
}

/* A comment may say return; and PyBuffer_Release(&first). */
static PyObject *
work(PyObject *const *args)
{
    Py_buffer first;
    Py_buffer second;
    PyObject *result = NULL;
    PyThreadState *thread = NULL;

    if (acquire_bytes(args[0], &first) < 0) {
        return NULL;
    }
    if (acquire_bytes(args[1], &second) < 0) {
        goto release_first;
    }
    thread = give_lock();
    kernels->work(first.buf, second.buf);
    take_lock(thread);
    result = Py_NewRef(Py_None);
    PyBuffer_Release(&second);
release_first:
    PyBuffer_Release(&first);
    return result;
}

const char *
fl_name(void)
{
    return "return PyObject_GetBuffer(";
}
"""

PLANTED = {
    "returns between acquiring a buffer and releasing it": (
        "goto release_first;",
        "return NULL;",
    ),
    "acquires a buffer that it does not release": (
        "    PyBuffer_Release(&second);\nrelease_first:\n    PyBuffer_Release(&first);\n",
        "release_first:\n",
    ),
    "acquires first, second but releases first, second": (
        "    PyBuffer_Release(&second);\nrelease_first:\n    PyBuffer_Release(&first);\n",
        "    PyBuffer_Release(&first);\nrelease_first:\n    PyBuffer_Release(&second);\n",
    ),
    "uses Python without the lock: Py_DECREF": (
        "    kernels->work(",
        "    Py_DECREF(args[0]);\n    kernels->work(",
    ),
    "jumps without the lock: goto": (
        "    take_lock(",
        "    if (first.len == 0) {\n        goto release_first;\n    }\n    take_lock(",
    ),
    "calls a function of this file without the lock: acquire_bytes": (
        "    take_lock(",
        "    acquire_bytes(args[0], &first);\n    take_lock(",
    ),
    "gives the lock away and does not take it back": ("    take_lock(thread);\n", ""),
    "is external and so must be named fl_*": ("static PyObject *\nwork", "PyObject *\nwork"),
}


@pytest.fixture(scope="module")
def lint() -> ModuleType:
    path = ROOT / "tools" / "lint_capi.py"
    spec = importlib.util.spec_from_file_location("lint_capi", path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    return module


def messages(lint: ModuleType, path: Path, source: str) -> list[str]:
    path.write_text(source)
    return [finding.message for finding in lint.lint_source(path)]


def test_a_good_source_has_no_findings(lint: ModuleType, tmp_path: Path) -> None:
    assert messages(lint, tmp_path / "good.c", GOOD) == []


@pytest.mark.parametrize("message", list(PLANTED))
def test_a_planted_mistake_is_found(lint: ModuleType, tmp_path: Path, message: str) -> None:
    old, new = PLANTED[message]
    assert GOOD.count(old) == 1

    found = messages(lint, tmp_path / "bad.c", GOOD.replace(old, new))

    assert any(message in each for each in found), found


def test_a_finding_names_the_line(lint: ModuleType, tmp_path: Path) -> None:
    path = tmp_path / "bad.c"
    path.write_text(GOOD.replace("goto release_first;", "return NULL;"))

    (finding,) = lint.lint_source(path)

    assert path.read_text().splitlines()[finding.line - 1].strip() == "return NULL;"


def test_the_sources_of_this_project_have_no_findings(
    lint: ModuleType, capsys: pytest.CaptureFixture[str]
) -> None:
    status = lint.main(["--extensions"])

    assert (status, capsys.readouterr().out) == (0, "")


@pytest.mark.skipif(
    shutil.which("cc") is None or shutil.which("nm") is None, reason="needs a C compiler and nm"
)
def test_an_export_besides_the_init_function_is_found(lint: ModuleType, tmp_path: Path) -> None:
    source, extension = tmp_path / "_some.c", tmp_path / "_some.cpython-311.so"
    source.write_text("int PyInit__some(void) { return 0; }\nint leaked(void) { return 0; }\n")
    command = ["cc", "-shared", "-fPIC", "-o", str(extension), str(source)]
    subprocess.run(command, check=True, capture_output=True)

    found = [finding.message for finding in lint.lint_extension(extension)]

    assert found == ["exports leaked"]
