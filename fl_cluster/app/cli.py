"""The commands `fl-cluster ...` and the scripts of the original's manual.

Thin on purpose: arguments are in `options`, what they do is in `commands`.  Nothing that may
be missing is imported before it can be said, in a sentence, that it is.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path

from fl_cluster.app.output import ending_quietly
from fl_cluster.errors import ExitCode


def _show_version() -> int:
    from fl_cluster.app import install_check

    text, is_complete = install_check.check()
    sys.stdout.write(f"{text}\n")
    return ExitCode.DONE if is_complete else ExitCode.CONFIGURATION


def _run(arguments: Sequence[str]) -> int:
    if list(arguments) == ["--version"]:
        return _show_version()
    from fl_cluster.app import commands, options

    parsed = options.parse(arguments)
    if parsed.version:
        return _show_version()
    if parsed.command is None:
        options.command_parser().print_help()
        return ExitCode.CONFIGURATION
    return commands.COMMANDS[parsed.command](parsed)


def _run_script(name: str, script: Path, arguments: Sequence[str]) -> int:
    from fl_cluster.app import commands, options

    summary, add = options.COMMANDS[name]
    parsed, unknown = options.script_parser(summary, add).parse_known_args(arguments)
    if unknown:
        sys.stderr.write(f"ignored, because not known: {' '.join(unknown)}\n")
    command = {"sched": commands.sched, "server": commands.server, "finish": commands.finish}
    return command[name](parsed, script.resolve().parent)


def _say_what_is_missing(exc: ImportError) -> int:
    sys.stderr.write(f"cannot run: {exc}\n")
    sys.stderr.write("`fl-cluster --version` shows what is installed and what is missing\n")
    return ExitCode.CONFIGURATION


def main(arguments: Sequence[str] | None = None) -> int:
    """`fl-cluster`: run the command; its exit code."""
    given = sys.argv[1:] if arguments is None else arguments
    try:
        return ending_quietly(lambda: _run(given))
    except ImportError as exc:
        return _say_what_is_missing(exc)


def script_main(name: str, script: str, arguments: Sequence[str] | None = None) -> int:
    """A script under the original's name: `name` is the command that it is.

    As in the original, arguments that nobody knows are not an error; here they are named.
    """
    given = sys.argv[1:] if arguments is None else arguments
    try:
        return ending_quietly(lambda: _run_script(name, Path(script), given))
    except ImportError as exc:
        return _say_what_is_missing(exc)


if __name__ == "__main__":
    sys.exit(main())
