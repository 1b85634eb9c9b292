"""As many open files as connections are allowed, or a word about it.

Most systems start processes with 1,024 open files and let them have more on request; a server
that does not ask turns devices away long before its configured limit.
"""

from __future__ import annotations

import logging
import resource

logger = logging.getLogger(__name__)

OWN_FILES = 256
"""What a server opens beside its devices' connections, with plenty of room."""


def allow_connections(count: int) -> None:
    """Raise this process's limit for `count` connections as far as the system lets it."""
    wanted = count + OWN_FILES
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft == resource.RLIM_INFINITY or soft >= wanted:
        return
    allowed = wanted if hard == resource.RLIM_INFINITY else min(wanted, hard)
    try:
        resource.setrlimit(resource.RLIMIT_NOFILE, (allowed, hard))
    except (OSError, ValueError) as exc:
        logger.warning("the limit of %d open files cannot be raised: %s", soft, exc)
        return
    if allowed < wanted:
        logger.warning(
            "the system allows %d open files, and client.connection_num %d needs %d: devices"
            " beyond that cannot connect; raise it with `ulimit -Hn` or LimitNOFILE",
            allowed,
            count,
            wanted,
        )
