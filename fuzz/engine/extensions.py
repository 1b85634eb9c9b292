"""The C extensions as fuzzing wants them: counting their branches, and under a sanitizer.

They are compiled by clang with the counters that libFuzzer reads and with AddressSanitizer
and UndefinedBehaviorSanitizer, into a folder of their own.  atheris brings a runtime of both
for a preload, so one loop sees the branches of C and of Python, and the reference decoder
guides the search as much as the native one.  A harness in C would be faster and would reach
only what no Python object is needed for, which is the smaller half of the decoder.
"""

from __future__ import annotations

import fcntl
import importlib.util
import os
import shutil
import subprocess
import sys
from pathlib import Path

from engine.target import ROOT

FOLDER = ROOT / "build" / "fuzz"
SANITIZE = "fuzzer-no-link,address,undefined"
RUNTIME = "asan_with_fuzzer.so"
LOG_LINES = 20


class Unavailable(Exception):
    """The extensions cannot be built so; the text is a sentence that says what is missing."""


def build() -> Path:
    """The folder of the instrumented extensions, which are made anew when sources changed."""
    if shutil.which("clang") is None:
        raise Unavailable(
            "clang was not found on PATH: the C extensions run without their own coverage and"
            " without a sanitizer"
        )
    FOLDER.mkdir(parents=True, exist_ok=True)
    with (FOLDER / "lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not _is_fresh():
            _compile()
    return FOLDER / "lib"


def _is_fresh() -> bool:
    sources = [ROOT / "setup.py", *(ROOT / "native").glob("*.[ch]")]
    newest = max(path.stat().st_mtime for path in sources)
    mark = FOLDER / "built"
    return mark.exists() and mark.stat().st_mtime > newest


def _compile() -> None:
    command = [sys.executable, "setup.py", "--quiet", "build_ext", "--force"]
    command += ["--build-temp", str(FOLDER / "temp"), "--build-lib", str(FOLDER / "lib")]
    switches = {"CC": "clang", "FL_CLUSTER_SANITIZE": SANITIZE, "FL_CLUSTER_WERROR": "1"}
    done = subprocess.run(
        command,
        check=False,
        cwd=ROOT,
        env={**os.environ, **switches},
        capture_output=True,
        text=True,
    )
    if done.returncode:
        last = "\n".join(done.stderr.splitlines()[-LOG_LINES:])
        raise Unavailable(f"clang does not compile the C extensions:\n{last}")
    (FOLDER / "built").touch()


def environment() -> dict[str, str]:
    """Variables for a process that loads them; Unavailable when atheris has no runtime here.

    The interpreter never frees everything at exit, hence no leak detection, and its own
    allocator would hide overruns.
    """
    found = importlib.util.find_spec("atheris")
    runtime = Path(found.origin).parent.parent / RUNTIME if found and found.origin else None
    if runtime is None or not runtime.exists():
        raise Unavailable(f"atheris comes without {RUNTIME} here: C runs without a sanitizer")
    return {
        "LD_PRELOAD": str(runtime),
        "PYTHONMALLOC": "malloc",
        "ASAN_OPTIONS": "detect_leaks=0:allocator_may_return_null=1",
    }
