"""One run of a fuzzer: arguments, corpora, the process under atheris, and what came of it.

    python fuzz/TARGET.py [--seconds N] [--seed N] [--corpus DIR] [--log FILE] [--keep]
    python fuzz/TARGET.py --replay [FILE...]

A run ends with one line and exit code 0, or with a finding, which is kept under
fuzz/findings/, and exit code 1.  What is found goes to fuzz/corpus/TARGET/ with its repair.
"""

from __future__ import annotations

import argparse
import hashlib
import importlib.util
import os
import random
import re
import resource
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from engine import extensions
from engine.target import CORPORA, ROOT, Target

FINDINGS = ROOT / "fuzz" / "findings"
KEPT_BYTES = 64 * 1024
"""Of each corpus in the repository; small inputs go first."""

MEMORY_FOLDER = "/dev/shm"
"""Files that targets write thousands of times a second are better in memory."""

ARTIFACTS = "artifacts"
FINDING = "finding-"
LONGEST_S = 10
"""For a single input: a thousand times what the slowest honest one takes."""

MEMORY_MB = 2048
SHOWN_LINES = 30
FAILURE = re.compile(r"=== Uncaught Python exception|==\d+==\s?ERROR|runtime error:")


@dataclass(frozen=True, slots=True)
class Outcome:
    """What the process under atheris came to."""

    code: int
    log: str
    cpu_s: float

    def number(self, pattern: str) -> int:
        """The last number that the log gives after `pattern`."""
        found = re.findall(rf"{pattern}\s*(\d+)", self.log)
        return int(found[-1]) if found else 0

    def failure(self) -> str:
        """The part of the log that tells what went wrong."""
        lines = self.log.splitlines()
        starts = [at for at, line in enumerate(lines) if FAILURE.search(line)]
        first = starts[0] if starts else max(0, len(lines) - SHOWN_LINES)
        return "\n".join(lines[first : first + SHOWN_LINES])


def main(target: Target) -> int:
    """Run the command line of a fuzzer; the exit code."""
    options = _options(target)
    if options.replay is not None:
        return replay(target, options.replay)
    if importlib.util.find_spec("atheris") is None:
        print(f"fuzz {target.name}: atheris is missing: pip install 'fl_cluster[fuzz]'")
        return 2
    in_memory = MEMORY_FOLDER if Path(MEMORY_FOLDER).is_dir() else None
    with tempfile.TemporaryDirectory(prefix=f"fuzz-{target.name}-", dir=in_memory) as folder:
        return _run(target, options, Path(folder))


def _options(target: Target) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=f"Fuzz {target.name}.")
    parser.add_argument("--seconds", type=int, default=60)
    parser.add_argument("--seed", type=int, default=random.SystemRandom().randrange(1, 2**31))
    parser.add_argument(
        "--corpus", type=Path, help="begin with this folder's inputs, and add to it"
    )
    parser.add_argument("--log", type=Path, help="where the fuzzer's own output goes")
    parser.add_argument("--keep", action="store_true", help="renew fuzz/corpus/ from this run")
    parser.add_argument("--replay", type=Path, nargs="*", help="try these inputs, or all known")
    return parser.parse_args()


def replay(target: Target, paths: Iterable[Path]) -> int:
    """Try the given inputs, or all that are known, here and now, without atheris."""
    paths = list(paths)
    inputs = [(str(path), path.read_bytes()) for path in paths or target.kept()]
    if not paths:
        inputs += [(f"seed {at}", seed) for at, seed in enumerate(target.seeds())]
    for name, data in inputs:
        start = time.monotonic()
        try:
            target.check(data)
        except Exception as exc:
            exc.add_note(f"{target.name}: {name} breaks the invariant")
            raise
        if time.monotonic() - start > LONGEST_S:
            print(f"{target.name}: {name} takes more than {LONGEST_S} s")
            return 1
    print(f"{target.name}: {len(inputs)} known inputs: the invariant held")
    return 0


def _run(target: Target, options: argparse.Namespace, folder: Path) -> int:
    seeds, found, artifacts = folder / "seeds", folder / "found", folder / ARTIFACTS
    for each in (seeds, found, artifacts):
        each.mkdir()
    tempfile.tempdir = str(folder)
    write_inputs(seeds, target.seeds())
    if options.corpus is not None:
        found = options.corpus
        found.mkdir(parents=True, exist_ok=True)
    corpora = [found, seeds, *_existing(CORPORA / target.name)]
    flags = [
        f"-max_total_time={options.seconds}",
        f"-seed={options.seed}",
        "-print_final_stats=1",
        *_dictionary(target, folder),
    ]
    outcome = _spawn(target, [*flags, *map(str, corpora)], options.log)
    if outcome.code:
        return _report(target, outcome, options.seed, artifacts)
    print(
        f"{target.name}: {outcome.number('number_of_executed_units:'):,} inputs,"
        f" {outcome.number('cov:'):,} edges, {outcome.cpu_s:.0f} s of CPU, seed {options.seed}:"
        " the invariant held",
        flush=True,
    )
    if options.keep:
        _keep(target, corpora, folder)
    return 0


def _existing(folder: Path) -> list[Path]:
    return [folder] if folder.is_dir() else []


def write_inputs(folder: Path, inputs: Iterable[bytes]) -> None:
    """One file each, named by its content."""
    for data in inputs:
        (folder / hashlib.sha1(data).hexdigest()).write_bytes(data)


def _dictionary(target: Target, folder: Path) -> list[str]:
    if not target.dictionary:
        return []
    lines = ["".join(f"\\x{byte:02x}" for byte in piece) for piece in target.dictionary if piece]
    path = folder / "dictionary"
    path.write_text("".join(f'"{line}"\n' for line in lines))
    return [f"-dict={path}"]


def _spawn(target: Target, flags: list[str], log: Path | None = None) -> Outcome:
    paths = os.pathsep.join([str(ROOT), str(ROOT / "fuzz")])
    environment = {**os.environ, "PYTHONPATH": paths, "TMPDIR": tempfile.gettempdir()}
    environment["PYTHONHASHSEED"] = "0"
    built = "-"
    if target.is_native:
        try:
            environment |= extensions.environment()
            built = str(extensions.build())
        except extensions.Unavailable as reason:
            print(f"fuzz {target.name}: {reason}")
            environment.pop("LD_PRELOAD", None)
    artifacts = Path(tempfile.gettempdir()) / ARTIFACTS
    limits = [f"-max_len={target.longest}", f"-timeout={LONGEST_S}", f"-rss_limit_mb={MEMORY_MB}"]
    limits += [f"-artifact_prefix={artifacts}/"]
    command = [sys.executable, "-m", "engine.child", target.name, built, str(artifacts)]
    command += [*limits, *flags]
    path = log or Path(tempfile.mkstemp(prefix=f"fuzz-{target.name}-", suffix=".log")[1])
    before = _cpu_of_children()
    with path.open("wb") as output:
        code = subprocess.run(
            command, check=False, env=environment, stdout=output, stderr=output
        ).returncode
    text = path.read_text(errors="replace")
    if log is None:
        path.unlink()
    return Outcome(code, text, _cpu_of_children() - before)


def _cpu_of_children() -> float:
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime


def _report(target: Target, outcome: Outcome, seed: int, artifacts: Path) -> int:
    kept = []
    for artifact in artifacts.iterdir():
        FINDINGS.mkdir(parents=True, exist_ok=True)
        place = FINDINGS / f"{target.name}-{artifact.name}"
        shutil.move(artifact, place)
        kept.append(place)
    print(f"{outcome.failure()}\n{target.name}, seed {seed}: exit code {outcome.code}")
    for place in kept:
        print(f"kept as {place}; again: python fuzz/{target.name}.py --replay {place}")
    return 1


def _keep(target: Target, corpora: list[Path], folder: Path) -> None:
    """Put the least inputs that reach all that was reached into the repository."""
    merged = folder / "merged"
    merged.mkdir()
    outcome = _spawn(target, ["-set_cover_merge=1", str(merged), *map(str, corpora)])
    if outcome.code:
        print(f"{outcome.failure()}\n{target.name}: the corpus stays as it was")
        return
    place = CORPORA / target.name
    place.mkdir(parents=True, exist_ok=True)
    for old in target.kept():
        if not old.name.startswith(FINDING):
            old.unlink()
    room = KEPT_BYTES
    for path in sorted(merged.iterdir(), key=lambda each: (each.stat().st_size, each.name)):
        room -= path.stat().st_size
        if room < 0:
            break
        shutil.copyfile(path, place / path.name[:16])
    print(f"{target.name}: {len(target.kept())} inputs kept of {len(list(merged.iterdir()))}")
