"""What of a device's message in a masked round is kept: all that others need, if it is fit.

One device's message is every other device's input, and an existing device that cannot read one
ends its job.  So lengths, names and numbers are checked here, and what nobody needs is left
out: no device can make others download what it likes.
"""

from __future__ import annotations

from collections.abc import Collection
from typing import Final

from fl_cluster.privacy.key_agreement import KEY_BYTES, SALT_BYTES, VECTOR_BYTES, is_usable
from fl_cluster.privacy.shamir import ANNOUNCED_PRIME
from fl_cluster.wire.messages import (
    ClientShare,
    RequestExchangeKeys,
    RequestShareSecrets,
    SendReconstructSecret,
)

MOST_SEALED_BYTES: Final = 320
"""The longest two shares of the longest prime that devices can write, sealed."""

MOST_SHARE_BYTES: Final = (ANNOUNCED_PRIME.bit_length() + 7) // 8


def fit_offer(
    sent: RequestExchangeKeys, *, shares_secrets: bool, is_signed: bool
) -> RequestExchangeKeys | None:
    """The public keys that a device offers; None when others could not use them.

    One that shares no secrets offers a key for masks only.  What proves whose the keys are is
    kept where devices prove that.
    """
    device = sent.fl_id
    if not device or not _is_text(device):
        return None
    parts = [(sent.s_pk, KEY_BYTES), (sent.pw_iv, VECTOR_BYTES), (sent.pw_salt, SALT_BYTES)]
    if shares_secrets:
        parts += [(sent.c_pk, KEY_BYTES), (sent.ind_iv, VECTOR_BYTES)]
    if any(part is None or len(part) != size for part, size in parts):
        return None
    public = (sent.s_pk, sent.c_pk) if shares_secrets else (sent.s_pk,)
    if not all(is_usable(key or b"") for key in public):
        return None
    return RequestExchangeKeys(
        fl_id=device,
        c_pk=sent.c_pk if shares_secrets else None,
        s_pk=sent.s_pk,
        iteration=sent.iteration,
        timestamp=sent.timestamp if is_signed else None,
        ind_iv=sent.ind_iv if shares_secrets else None,
        pw_iv=sent.pw_iv,
        pw_salt=sent.pw_salt,
        signature=sent.signature if is_signed else None,
        certificate_chain=sent.certificate_chain if is_signed else None,
    )


def _is_text(device: str) -> bool:
    """Whether names can be put in the order of characters, which decides the signs of masks."""
    try:
        device.encode()
    except UnicodeEncodeError:
        return False
    return True


def fit_shares(
    sent: RequestShareSecrets, recipients: Collection[str]
) -> RequestShareSecrets | None:
    """A sealed share for each other device; None when one of them gets none.

    Whose masks have a part for a device and whose shares it gets has to be the same.
    """
    sealed: dict[str, bytes] = {}
    for entry in sent.encrypted_shares or ():
        share = bytes(entry.share or b"")
        if not 0 < len(share) <= MOST_SEALED_BYTES:
            return None
        sealed.setdefault(entry.fl_id or "", share)
    others = [device for device in recipients if device != sent.fl_id]
    if not others or any(device not in sealed for device in others):
        return None
    shares = tuple(ClientShare(device, sealed[device]) for device in others)
    return RequestShareSecrets(fl_id=sent.fl_id, encrypted_shares=shares, iteration=sent.iteration)


def fit_reveal(
    sent: SendReconstructSecret, owners: Collection[str]
) -> SendReconstructSecret | None:
    """A share of each other device's secret; None when one is missing or no share can be it.

    The round waits for just so many devices, so that one with less must not be among them.
    """
    revealed: dict[str, ClientShare] = {}
    for entry in sent.reconstruct_secret_shares or ():
        share = entry.share
        if share is None or len(share) > MOST_SHARE_BYTES or entry.index < 1:
            return None
        if int.from_bytes(share, "big") >= ANNOUNCED_PRIME:
            return None
        revealed.setdefault(entry.fl_id or "", ClientShare(entry.fl_id, bytes(share), entry.index))
    others = [device for device in owners if device != sent.fl_id]
    if not others or any(device not in revealed for device in others):
        return None
    shares = tuple(revealed[device] for device in others)
    return SendReconstructSecret(
        fl_id=sent.fl_id, reconstruct_secret_shares=shares, iteration=sent.iteration
    )
