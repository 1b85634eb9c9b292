"""Shamir's secret sharing: a secret in shares, of which so many are needed and fewer say nothing.

A secret is 32 bytes, read as a big-endian number; the polynomial's other coefficients are
uniform and not 0, as genuine devices draw them.  Shares have x from 1.  A rebuilt secret
keeps its leading zero bytes.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Final, NamedTuple

from fl_cluster.privacy.draws import Stream

SECRET_BYTES: Final = 32

PRIME: Final = 2**256 + 297
"""The smallest prime above every secret: the field of jobs that need not follow a server's."""

ANNOUNCED_PRIME: Final = 2**264 - 275
"""The largest prime of 33 bytes: the field that servers announce to existing devices."""

MOST_PRIME_BYTES: Final = 127
"""Published devices write a share's length into one byte with a sign."""

_WITNESSES: Final = (2, 3, 5, 7, 11, 13, 17, 19, 23, 29, 31, 37)


class Share(NamedTuple):
    """One point of a polynomial; `x` is from 1 to below the prime."""

    x: int
    y: int


class WrongShares(ValueError):
    """These shares do not make a secret, and no other order of them would."""


def split(secret: bytes, needed: int, xs: Sequence[int], prime: int, stream: Stream) -> list[Share]:
    """Shares of a 32-byte secret, one for each of `xs`, of which any `needed` rebuild it."""
    if len(secret) != SECRET_BYTES:
        raise ValueError(f"expected a secret of {SECRET_BYTES} bytes, found {len(secret)}")
    if not 1 <= needed <= len(xs):
        raise ValueError(f"expected to need from 1 to {len(xs)} shares, found {needed}")
    coefficients = [_coefficient(prime, stream) for _ in range(needed - 1)]
    coefficients.reverse()
    constant = int.from_bytes(secret, "big")
    return [Share(x, _value(coefficients, constant, x, prime)) for x in xs]


def combine(shares: Sequence[Share], needed: int, prime: int) -> bytes:
    """The 32-byte secret, from the first `needed` of the shares; one more must fit, if there is.

    WrongShares when there are too few, two have the same x, one is outside the field, they
    contradict each other, or what they make is longer than a secret.
    """
    chosen = _checked(shares[: needed + 1], needed, prime)
    for spare in chosen[needed:]:
        if _at(chosen[:needed], spare.x, prime) != spare.y:
            raise WrongShares("the shares contradict each other")
    return _secret(chosen[:needed], prime)


def rebuild(
    shares: Sequence[Share], needed: int, prime: int, is_right: Callable[[bytes], bool]
) -> bytes:
    """The secret for which `is_right`, even if one of the shares that are tried is wrong.

    WrongShares as `combine`, and when no choice of the first `needed` + 1 makes the secret.
    """
    tried = _checked(shares[: needed + 1], needed, prime)
    for left_out in range(len(tried) - 1, -1, -1):
        chosen = tried if len(tried) == needed else tried[:left_out] + tried[left_out + 1 :]
        secret = _number(chosen, prime)
        if secret is not None and is_right(secret):
            return secret
        if len(tried) == needed:
            break
    raise WrongShares("the shares do not make the secret that was promised")


def _checked(shares: Sequence[Share], needed: int, prime: int) -> list[Share]:
    if len(shares) < needed:
        raise WrongShares(f"expected {needed} shares, found {len(shares)}")
    if len({share.x for share in shares}) < len(shares):
        raise WrongShares("two shares have the same x")
    for share in shares:
        if not (0 < share.x < prime and 0 <= share.y < prime):
            raise WrongShares(f"the share with x = {share.x} is outside the field")
    return list(shares)


def _secret(shares: Sequence[Share], prime: int) -> bytes:
    secret = _number(shares, prime)
    if secret is None:
        raise WrongShares(f"the shares make a number of more than {SECRET_BYTES} bytes")
    return secret


def _number(shares: Sequence[Share], prime: int) -> bytes | None:
    number = _at(shares, 0, prime)
    if number.bit_length() > 8 * SECRET_BYTES:
        return None
    return number.to_bytes(SECRET_BYTES, "big")


def minimal_bytes(number: int) -> bytes:
    """A number as genuine devices write it: big-endian, no leading zeros, 0 is nothing."""
    return number.to_bytes((number.bit_length() + 7) // 8, "big")


def find_unfit_prime(prime: int) -> str | None:
    """Why shares over this prime, which a server chose, would not be safe; None when they are."""
    if prime <= 2 ** (8 * SECRET_BYTES):
        return f"expected a prime above every secret of {SECRET_BYTES} bytes"
    if prime.bit_length() > 8 * MOST_PRIME_BYTES:
        return f"expected a prime of at most {MOST_PRIME_BYTES} bytes"
    return None if _is_prime(prime) else "expected a prime, found a number with factors"


def _coefficient(prime: int, stream: Stream) -> int:
    bits = prime.bit_length()
    while True:
        # As Java draws a number of so many bits: spare bits at the top are dropped.
        drawn = int.from_bytes(stream.take((bits + 7) // 8), "big")
        number = drawn & ((1 << bits) - 1)
        if 0 < number < prime:
            return number


def _value(falling: Sequence[int], constant: int, x: int, prime: int) -> int:
    total = 0
    for coefficient in falling:
        total = (total * x + coefficient) % prime
    return (total * x + constant) % prime


def _at(shares: Sequence[Share], x: int, prime: int) -> int:
    """The value at x of the polynomial through the shares; one inversion for all of them."""
    numerators, denominators = [], []
    for i, one in enumerate(shares):
        above, below = one.y, 1
        for j, other in enumerate(shares):
            if j != i:
                above = above * (x - other.x) % prime
                below = below * (one.x - other.x) % prime
        numerators.append(above)
        denominators.append(below)
    inverses = _inverses(denominators, prime)
    return sum(a * b for a, b in zip(numerators, inverses, strict=True)) % prime


def _inverses(numbers: Sequence[int], prime: int) -> list[int]:
    products = [1]
    for number in numbers:
        products.append(products[-1] * number % prime)
    inverse = pow(products.pop(), -1, prime)
    found = []
    for number, before in zip(reversed(numbers), reversed(products), strict=True):
        found.append(inverse * before % prime)
        inverse = inverse * number % prime
    found.reverse()
    return found


def _is_prime(number: int) -> bool:
    """Miller and Rabin's test; the witnesses are enough against numbers not made to fool it."""
    if number % 2 == 0:
        return False
    odd, twos = number - 1, 0
    while odd % 2 == 0:
        odd, twos = odd // 2, twos + 1
    return all(_passes(number, witness, odd, twos) for witness in _WITNESSES)


def _passes(number: int, witness: int, odd: int, twos: int) -> bool:
    power = pow(witness, odd, number)
    for _ in range(twos):
        if power in (1, number - 1):
            return True
        power = power * power % number
    return False
