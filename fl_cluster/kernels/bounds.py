"""How large a term of an exact sum may be; devices that make terms themselves keep to it too."""

from __future__ import annotations

LARGEST_TERM = 2**51
"""A double holds any integer up to here, and the kernels' rounding trick needs no more."""


def term_bound(cohort_size: int) -> int:
    """The largest |q| that one update may contribute per element."""
    return min(LARGEST_TERM, (2**63 - 1) // cohort_size)
