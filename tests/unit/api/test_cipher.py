"""Masked rounds in msgpack: the same steps, and the status says what became of each."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from fl_cluster.privacy.draws import SystemStream
from fl_cluster.privacy.masks import Layout, mask_count, parts
from fl_cluster.privacy.pairwise import OwnKeys, PublicKeys, answer, in_order, mask, new_keys, seal
from fl_cluster.privacy.shamir import ANNOUNCED_PRIME, minimal_bytes
from fl_cluster.wire import messages

DEVICES = ("d1", "d2", "d3")
NEEDED = 1
TENSORS = {"w000": [0.25, -0.5, 0.75], "w001": [1.5, 0.0], "steps": [1.0]}
TIME = "1795318333403"


class Device:
    """What one device knows of the round."""

    def __init__(self, name: str) -> None:
        self.name = name
        self.stream = SystemStream()
        self.keys: OwnKeys = new_keys(self.stream)
        self.peers: dict[str, PublicKeys] = {}
        self.seed = b""

    def offer(self, **fields: Any) -> messages.RequestExchangeKeys:
        keys = self.keys.public
        given = {
            "c_pk": keys.share_key,
            "s_pk": keys.mask_key,
            "ind_iv": keys.own_vector,
            "pw_iv": keys.pair_vector,
            "pw_salt": keys.pair_salt,
            "timestamp": TIME,
        }
        return messages.RequestExchangeKeys(fl_id=self.name, iteration=1, **(given | fields))


class Round:
    """The devices and the members they ask."""

    def __init__(self, callers: list[Any]) -> None:
        self.callers = callers
        self.devices = {name: Device(name) for name in DEVICES}

    async def say(self, path: str, message: Any, cls: type[Any], caller: int = 0) -> Any:
        return await self.callers[caller % len(self.callers)].send_to(path, message, cls)

    async def accept(self, path: str, message: Any, cls: type[Any], caller: int = 0) -> Any:
        reply = await self.say(path, message, cls, caller)
        assert (reply.status, reply.message.verdict) == (200, "accepted"), reply.message
        return reply.message

    async def check_in(self) -> None:
        for name in DEVICES:
            assert (await self.callers[0].check_in(name)).status == 200

    async def offer(self) -> None:
        await self.check_in()
        for device in self.devices.values():
            await self.accept("exchangeKeys", device.offer(), messages.ResponseExchangeKeys, 1)

    async def share(self) -> None:
        await self.offer()
        for device in self.devices.values():
            asked = messages.GetExchangeKeys(device.name, 1, TIME)
            told = await self.accept("getKeys", asked, messages.ReturnExchangeKeys)
            published = {
                each.fl_id: PublicKeys(each.c_pk, each.s_pk, b"", each.pw_iv, each.pw_salt)
                for each in told.remote_publickeys
            }
            device.peers = in_order(device.name, published, list(published))
            sealed = seal(
                device.keys,
                device.peers,
                needed=NEEDED,
                prime=ANNOUNCED_PRIME,
                stream=device.stream,
            )
            device.seed = sealed.seed
            shares = tuple(messages.ClientShare(*pair) for pair in sealed.shares.items())
            sent = messages.RequestShareSecrets(device.name, shares, 1, TIME)
            await self.accept("shareSecrets", sent, messages.ResponseShareSecrets, 1)

    async def report(self, *names: str) -> dict[str, dict[str, bytes]]:
        await self.share()
        held = {}
        for device in self.devices.values():
            asked = messages.GetShareSecrets(device.name, 1, TIME)
            told = await self.accept("getSecrets", asked, messages.ReturnShareSecrets, 1)
            held[device.name] = {each.fl_id: each.share for each in told.encrypted_shares}
        sizes = [len(values) for values in TENSORS.values()]
        for name in names:
            device = self.devices[name]
            count = mask_count(sizes, Layout.RESTART)
            noise = mask(name, device.keys, device.peers, count, device.seed)
            masked = {
                tensor: (np.float32(10) * np.array(values, np.float32) + part).tolist()
                for (tensor, values), part in zip(
                    TENSORS.items(), parts(noise, sizes, Layout.RESTART), strict=True
                )
            }
            assert (await self.callers[0].report(name, 1, tensors=masked)).status == 200
        return held


@pytest.fixture
async def masked(bench):
    """Three devices of which two have to report, at either of two members."""
    await bench.open(
        encrypt__encrypt_type="PW_ENCRYPT",
        encrypt__pw_encrypt={
            "share_secrets_ratio": 1.0,
            "cipher_time_window": 20_000,
            "reconstruct_secrets_threshold": NEEDED,
        },
        round__start_fl_job_threshold=3,
        round__update_model_ratio=0.6,
    )
    members = [await bench.member(), await bench.member()]
    return Round([member.packed for member in members])


async def test_a_round_in_msgpack_gives_the_mean(masked, bench):
    held = await masked.report("d1", "d3")
    for name in ("d1", "d3"):
        await bench.look()
        asked = messages.GetClientList(name, 1, TIME)
        told = await masked.accept("getClientList", asked, messages.ReturnClientList, 1)
        assert told.clients == ("d1", "d3")
        device = masked.devices[name]
        revealed = answer(device.keys, held[name], device.peers, told.clients)
        shares = tuple(
            messages.ClientShare(owner, minimal_bytes(share.y), share.x)
            for owner, share in revealed.items()
        )
        sent = messages.SendReconstructSecret(name, shares, 1, TIME)
        await masked.accept("reconstructSecrets", sent, messages.ReconstructSecret)

    await bench.finish_round()

    model = bench.members[0].view.base.model
    for name in ("w000", "w001"):
        np.testing.assert_allclose(model.tensor(name).reshape(-1), TENSORS[name], atol=2e-6)


REFUSED: list[tuple[str, Any, type[Any], int, str]] = [
    ("exchangeKeys", Device("zz").offer(), messages.ResponseExchangeKeys, 409, "not_in_cohort"),
    (
        "exchangeKeys",
        Device("d1").offer(c_pk=b""),
        messages.ResponseExchangeKeys,
        400,
        "invalid",
    ),
    (
        "exchangeKeys",
        Device("d1").offer()._replace(iteration=4),
        messages.ResponseExchangeKeys,
        409,
        "stale_round",
    ),
    (
        "getKeys",
        messages.GetExchangeKeys("d1", 1, TIME),
        messages.ReturnExchangeKeys,
        202,
        "not_ready",
    ),
    (
        "shareSecrets",
        messages.RequestShareSecrets("d1", (), 1, TIME),
        messages.ResponseShareSecrets,
        409,
        "unprepared",
    ),
    (
        "getClientList",
        messages.GetClientList("d1", 1, TIME),
        messages.ReturnClientList,
        202,
        "not_ready",
    ),
    (
        "reconstructSecrets",
        messages.SendReconstructSecret("d1", (), 1, TIME),
        messages.ReconstructSecret,
        409,
        "too_early",
    ),
    (
        "reconstructSecrets",
        messages.SendReconstructSecret("d1", (), 7, TIME),
        messages.ReconstructSecret,
        409,
        "stale_round",
    ),
]


@pytest.mark.parametrize(
    ("path", "message", "cls", "status", "verdict"),
    REFUSED,
    ids=[f"{path} {verdict}" for path, _, _, _, verdict in REFUSED],
)
async def test_a_refusal_has_its_status_and_its_word(masked, path, message, cls, status, verdict):
    await masked.check_in()

    reply = await masked.say(path, message, cls)

    assert (reply.status, reply.message.verdict) == (status, verdict)
    assert reply.message.retcode != 200
    assert reply.message.retry_after_ms is not None


async def test_new_keys_take_the_place_of_the_first_until_all_are_there(masked):
    await masked.check_in()
    offered = {name: device.offer() for name, device in masked.devices.items()}
    await masked.accept("exchangeKeys", offered["d1"], messages.ResponseExchangeKeys)
    anew = Device("d1").offer()

    for caller in (1, 0):
        await masked.accept("exchangeKeys", anew, messages.ResponseExchangeKeys, caller)
    unfit = await masked.say("exchangeKeys", anew._replace(s_pk=b""), messages.ResponseExchangeKeys)
    for name in DEVICES[1:]:
        await masked.accept("exchangeKeys", offered[name], messages.ResponseExchangeKeys, 1)
    late = await masked.say("exchangeKeys", offered["d1"], messages.ResponseExchangeKeys, 1)

    assert (unfit.status, unfit.message.verdict) == (400, "invalid")
    assert (late.status, late.message.verdict) == (429, "enough")
    asked = messages.GetExchangeKeys("d2", 1, TIME)
    told = await masked.accept("getKeys", asked, messages.ReturnExchangeKeys)
    assert [each.s_pk for each in told.remote_publickeys if each.fl_id == "d1"] == [anew.s_pk]


async def test_what_is_no_message_is_refused_for_good(masked):
    reply = await masked.callers[0]._ask(
        masked.callers[0].raw_request("exchangeKeys", b"\xc1"), messages.ResponseExchangeKeys
    )

    assert (reply.status, reply.message.verdict) == (400, "invalid")
    assert reply.message.retry_after_ms is None


async def test_masks_are_added_to_weights_times_the_data_size(masked):
    await masked.report()
    plain = masked.callers[0].report_message("d1", 1, tensors=TENSORS, plain_weights=True)

    reply = await masked.callers[0].send(plain)

    assert (reply.status, reply.message.verdict) == (400, "invalid")
    assert "masks are added to weights times the data size" in reply.message.reason


async def test_an_update_that_lacks_a_tensor_is_told_which(masked):
    await masked.report()

    reply = await masked.callers[0].report("d1", 1, tensors={"w000": [1.0, 2.0, 3.0]})

    assert (reply.status, reply.message.verdict) == (400, "invalid")
    assert "tensor 'w001' is missing, and its masks with it" in reply.message.reason


async def test_a_device_of_the_sdk_is_refused_where_masks_run_on(bench):
    await bench.open(
        encrypt__encrypt_type="PW_ENCRYPT",
        encrypt__pw_encrypt={
            "share_secrets_ratio": 1.0,
            "cipher_time_window": 20_000,
            "reconstruct_secrets_threshold": NEEDED,
        },
        cluster__pw_mask_layout="running",
        round__start_fl_job_threshold=3,
        round__update_model_ratio=0.6,
    )
    member = await bench.member()

    of_sdk = await member.packed.check_in("d1")
    existing = await member.flat.check_in("d2")

    assert (of_sdk.status, of_sdk.message.verdict) == (400, "invalid")
    assert of_sdk.message.reason.endswith("pw_mask_layout: restart.")
    assert existing.message.retcode == 200
