"""Where devices find the calls: the configured prefix, and how devices write it."""

from __future__ import annotations


def ways_to_write(url_prefix: str, name: str) -> tuple[str, ...]:
    """The paths of a call: the prefix as it is written and then the name, `/` when it is empty.

    Existing devices put a slash between what they were told and the name, also where there is
    one already.
    """
    folder = url_prefix.rstrip("/")
    return (f"{url_prefix or '/'}{name}", f"{folder}/{name}", f"{folder}//{name}")


def complaint(url_prefix: str) -> str | None:
    """Why no request can match the prefix; None when requests can."""
    if not url_prefix or url_prefix.startswith("/"):
        return None
    return (
        f"client.http_url_prefix is {url_prefix!r}, which no request can match, because paths"
        f" begin with a slash: every device gets a 404; write {'/' + url_prefix!r}"
    )
