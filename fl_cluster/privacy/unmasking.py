"""The server's side of a masked round of genuine devices: how many are needed, and the noise.

What is left in the sum are the own masks of counted devices and one side of every pair whose
other side dropped out.  The shares give the seeds and keys to compute both.  A rebuilt key is
checked against its public key, and one wrong share is survived; a seed has no public half, so
one share more than needed has to fit it instead, where there is one.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from fl_cluster.kernels.native import Floats, Integers
from fl_cluster.privacy.key_agreement import public_key
from fl_cluster.privacy.masks import keystream_floats
from fl_cluster.privacy.pairwise import PublicKeys, pair_mask
from fl_cluster.privacy.shamir import Share, WrongShares, combine, rebuild

Doubles = npt.NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class MaskGoals:
    """How many devices each step of a masked round waits for."""

    exchange_keys: int
    get_keys: int
    share_secrets: int
    get_secrets: int
    get_list: int
    sign_list: int
    get_signatures: int
    reconstruct: int


def mask_goals(cohort_size: int, report_goal: int, share_ratio: float, needed: int) -> MaskGoals:
    """The goals of a round; `needed` is how many shares rebuild a secret.

    ValueError when no round with these numbers can end well.
    """

    def fewer(goal: int, least: int) -> int:
        return max(int(np.ceil(np.float32(goal) * np.float32(share_ratio))), least)

    exchange = fewer(cohort_size, report_goal)
    get_keys = fewer(exchange, report_goal)
    share = fewer(get_keys, report_goal)
    get_list = fewer(report_goal, needed + 1)
    sign_list = fewer(get_list, needed + 1)
    if cohort_size < 2 or min(exchange, share, report_goal) < needed + 1:
        raise ValueError(
            f"masks that {needed} devices can undo need a cohort of at least 2 and at least"
            f" {needed + 1} reports; this round has {cohort_size} and {report_goal}"
        )
    return MaskGoals(
        exchange_keys=exchange,
        get_keys=get_keys,
        share_secrets=share,
        get_secrets=fewer(share, report_goal),
        get_list=get_list,
        sign_list=sign_list,
        get_signatures=fewer(sign_list, needed + 1),
        reconstruct=needed + 1,
    )


def regroup(answers: Mapping[str, Mapping[str, Share]]) -> dict[str, list[Share]]:
    """From each sender's shares to each owner's, in the order of the senders' names.

    A share with an x that the owner already has is left out: no second device holds it.
    """
    owners: dict[str, dict[int, Share]] = {}
    for sender in sorted(answers, key=str.encode):
        for owner, share in answers[sender].items():
            owners.setdefault(owner, {}).setdefault(share.x, share)
    return {owner: list(shares.values()) for owner, shares in owners.items()}


@dataclass(frozen=True, slots=True)
class MaskedRound:
    """Who took part in a masked round and with what."""

    published: Mapping[str, PublicKeys]
    sharers: Sequence[str]
    """Whose shares were handed out: the peers of everybody's masks."""
    counted: Collection[str]
    """Whose updates are in the sum; all of them are sharers."""
    needed: int
    prime: int

    def noise(self, shares: Mapping[str, Sequence[Share]], count: int) -> Doubles:
        """What to add to the sum so that no mask is left, of which `count` elements are used.

        Exact: a mask is a multiple of 2**-31, and so is a double this small.  WrongShares,
        with the owner, when a secret cannot be rebuilt.
        """
        total = np.zeros(count, np.float64)
        for owner in sorted(self.sharers, key=str.encode):
            secret = self._secret(owner, shares.get(owner, ()))
            if owner in self.counted:
                total -= keystream_floats(secret, self.published[owner].own_vector, count)
            else:
                self._take_pairs_back(owner, secret, total)
        return total

    def _secret(self, owner: str, shares: Sequence[Share]) -> bytes:
        promised = self.published[owner].mask_key
        try:
            if owner in self.counted:
                return combine(shares, self.needed, self.prime)
            return rebuild(
                shares, self.needed, self.prime, lambda private: public_key(private) == promised
            )
        except WrongShares as fault:
            raise WrongShares(f"device {owner!r}: {fault}") from fault

    def _take_pairs_back(self, owner: str, private: bytes, total: Doubles) -> None:
        me = (owner, self.published[owner])
        for other in self.sharers:
            if other not in self.counted:
                continue  # of two that dropped out, neither mask is in the sum
            sign, mask = pair_mask(me, private, (other, self.published[other]), total.size)
            _add(total, sign, mask)


def _add(total: Doubles, sign: int, mask: Floats) -> None:
    if sign > 0:
        total += mask
    else:
        total -= mask


def add_to_sums(sums: Integers, noise: Doubles, exponent: int) -> None:
    """Add one tensor's part of the noise to its sums, which are in units of 2**-exponent."""
    sums += np.rint(np.ldexp(noise, exponent)).astype(np.int64)
