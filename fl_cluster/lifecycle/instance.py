"""An instance: one training run of a job, from its first round to its last, and its name.

Pure: instants are passed in.  What can happen to a run is part of the round's machine,
because it has to happen together with what happens to the round.
"""

from __future__ import annotations

from datetime import datetime, tzinfo


def instance_name(at_us: int, *, zone: tzinfo | None = None) -> str:
    """The name of a run that begins at an instant: `i_YYYY-mm-dd-HH:MM:SS.mmm.uuu`.

    `at_us` are microseconds since the epoch, shown in `zone` (None: local time, as tools that
    show names expect).
    """
    seconds, micros = divmod(at_us, 1_000_000)
    text = datetime.fromtimestamp(seconds, zone).strftime("%Y-%m-%d-%H:%M:%S")
    return f"i_{text}.{micros // 1000:03d}.{micros % 1000:03d}"
