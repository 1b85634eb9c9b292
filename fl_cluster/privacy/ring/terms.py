"""A device's update as terms of the exact sum, ready to be masked.

What a server would compute from plain weights, element for element; so the round's exponents
and its bound come from the server, and the range is checked here because nobody can check it
once the mask is on.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from fl_cluster.kernels import native as kernels
from fl_cluster.kernels.native import Floats, Integers


def terms_of(
    tensors: Sequence[Floats], exponents: Sequence[int], data_size: int, bound: int
) -> Integers:
    """round_half_even(weight * data_size * 2**exponent) of all tensors, one after the other.

    ValueError when an element is not finite or its term would exceed `bound`.
    """
    terms = np.zeros(sum(tensor.size for tensor in tensors), np.int64)
    start = 0
    for number, (tensor, exponent) in enumerate(zip(tensors, exponents, strict=True)):
        multiplier = float(data_size) * 2.0**exponent
        index = kernels.find_unfit(tensor, multiplier, bound)
        if index >= 0:
            largest = bound / multiplier
            raise ValueError(
                f"tensor {number}, element {index}: expected a finite value of magnitude at most"
                f" {largest:.6g}, found {float(tensor[index]):.6g}"
            )
        kernels.fold(terms[start : start + tensor.size], tensor, multiplier)
        start += tensor.size
    return terms
