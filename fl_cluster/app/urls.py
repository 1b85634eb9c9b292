"""What a URL looks like to those who refuse one that is none: the original's own pattern."""

from __future__ import annotations

import re

URL_PATTERN = re.compile(
    r"https?://(www\.)?[-a-zA-Z0-9@:%._+~#=]{1,256}\.[a-zA-Z0-9()]{1,6}\b"
    r"([-a-zA-Z0-9()@:%_+.~#?&//=]*)"
)
