"""The two C extensions and the switches of their build; all the rest is in pyproject.toml.

Both are optional: where no compiler is found the package installs without them, and runs
with identical results, slower.  Environment:

    FL_CLUSTER_WERROR=1            warnings are errors, and so is a build that fails (CI)
    FL_CLUSTER_SANITIZE=a,b        -fsanitize=a,b, every finding fatal
    FL_CLUSTER_COVERAGE=1          gcov counters, no optimisation
    FL_CLUSTER_DEBUG=1             assertions, symbols, no optimisation
"""

import os
from pathlib import Path

from setuptools import Extension, setup

WARNINGS = [
    "-Wall",
    "-Wextra",
    "-Wshadow",
    "-Wconversion",
    "-Wpedantic",
    "-Wstrict-prototypes",
]
# A fused multiply-add rounds once where the others round twice: machines would disagree.
SEMANTICS = ["-std=c11", "-ffp-contract=off", "-fvisibility=hidden"]


def is_set(switch: str) -> bool:
    """Whether FL_CLUSTER_<switch> is on; any text but the usual words for no counts."""
    return os.environ.get(f"FL_CLUSTER_{switch}", "").lower() not in {"", "0", "no", "false"}


def flags() -> tuple[list[str], list[str]]:
    """What to compile with, and what to link with."""
    compile_flags = [*SEMANTICS, *WARNINGS, "-O3"]
    link_flags: list[str] = []
    if is_set("WERROR"):
        compile_flags += ["-Werror"]
    if is_set("SANITIZE"):
        sanitize = [f"-fsanitize={os.environ['FL_CLUSTER_SANITIZE']}"]
        compile_flags += [*sanitize, "-fno-sanitize-recover=all"]
        compile_flags += ["-O1", "-g", "-fno-omit-frame-pointer"]
        link_flags += sanitize
    if is_set("COVERAGE"):
        compile_flags += ["-O0", "-g", "--coverage"]
        link_flags += ["--coverage"]
    if is_set("DEBUG"):
        compile_flags += ["-O0", "-g", "-UNDEBUG"]
    return compile_flags, link_flags


def extension(name: str, *sources: str) -> Extension:
    compile_flags, link_flags = flags()
    return Extension(
        f"fl_cluster.{name}",
        sources=[f"native/{source}" for source in sources],
        depends=[str(header) for header in sorted(Path("native").glob("*.h"))],
        extra_compile_args=compile_flags,
        extra_link_args=link_flags,
        optional=not is_set("WERROR"),
    )


EXTENSIONS = [
    extension(
        "_native",
        "arguments.c",
        "dispatch.c",
        "kernel_set.c",
        "kernels_avx2.c",
        "kernels_avx512.c",
        "kernels_portable.c",
        "module.c",
    ),
    extension("_wire", "flat_verify.c", "wire_module.c"),
]

setup(
    ext_modules=[
        candidate
        for candidate in EXTENSIONS
        if all(Path(source).exists() for source in candidate.sources)
    ]
)
