"""Secure aggregation over HTTP: what devices are answered at every step, and what comes out."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import msgpack
import numpy as np
import pytest

from fl_cluster.aggregate.partial import Partial, Update
from fl_cluster.kernels.bounds import term_bound
from fl_cluster.privacy.draws import SystemStream
from fl_cluster.privacy.ring import packing
from fl_cluster.privacy.ring.device import RingDevice
from fl_cluster.privacy.ring.messages import Report
from fl_cluster.privacy.ring.terms import terms_of
from fl_cluster.rounds.exchange import Step
from fl_cluster.wire import messages

NAMES = ("ann", "bob", "cleo", "dan")
STEP = messages.ResponseSecureStep
SIZE = len(NAMES)


class Party:
    """Four devices of one round, each at another member than the one before."""

    def __init__(self, bench: Any) -> None:
        self.bench = bench
        self.devices: dict[str, RingDevice] = {}
        self.messages: dict[tuple[str, str], Any] = {}
        self.views: dict[str, Any] = {}
        self._asked = 0

    async def send(self, path: str, message: Any, cls: type[Any] = STEP) -> tuple[int, Any]:
        self._asked += 1
        member = self.bench.members[self._asked % len(self.bench.members)]
        reply = await member.packed.send_to(path, message, cls)
        return reply.status, reply.message

    async def accepted(self, path: str, message: Any, cls: type[Any] = STEP) -> Any:
        """The answer to a message that is accepted, whatever member it comes to."""
        status, answer = await self.send(path, message, cls)
        assert (status, answer.retcode, answer.verdict) == (200, 200, "accepted"), answer
        return answer

    async def refused(self, path: str, message: Any, cls: type[Any] = STEP) -> tuple[int, str, str]:
        status, answer = await self.send(path, message, cls)
        return status, answer.verdict, answer.reason

    def read(self, name: str, hold_ms: int | None = 2_000) -> messages.RequestSecureRead:
        return messages.RequestSecureRead(name, self.bench.number, 1, hold_ms)

    @property
    def place(self) -> packing.Place:
        return packing.Place(self.bench.number, 1)

    async def check_in(self, *names: str) -> None:
        for name in names:
            size = 10 + NAMES.index(name)
            reply = await self.bench.members[0].packed.check_in(name, data_size=size)
            self.admitted = reply.message
            ring = packing.ring_round(self.admitted.secure, "Bench", self.admitted.iteration)
            self.devices[name] = RingDevice(ring, name, SystemStream())

    async def offer(self, *names: str) -> None:
        for name in names:
            message = packing.pack_offer(self.place, self.devices[name].offer)
            self.messages["offer", name] = message
            await self.accepted("secure/offer", message)

    async def share(self, *names: str) -> None:
        for name in names:
            cls = messages.ResponseSecureRoster
            answer = await self.accepted("secure/roster", self.read(name), cls)
            self.views[name] = packing.unpack_roster(answer)
            message = packing.pack_sharing(self.place, self.devices[name].share(self.views[name]))
            self.messages["share", name] = message
            await self.accepted("secure/share", message)

    def terms(self, name: str) -> Any:
        tensors = self.admitted.secure.tensors
        arrays = [trained(name)[tensor.weight_fullname] for tensor in tensors]
        exponents = [tensor.exponent for tensor in tensors]
        size = 10 + NAMES.index(name)
        return terms_of(arrays, exponents, size, term_bound(self.admitted.secure.cohort_size))

    async def report(self, *names: str) -> None:
        for name in names:
            cls = messages.ResponseSecureDelivery
            answer = await self.accepted("secure/delivery", self.read(name), cls)
            neighbours = sorted(self.views[name].offers)
            delivery = packing.unpack_delivery(answer, SIZE, neighbours)
            report = self.devices[name].report(delivery, self.terms(name))
            message = self.update(name, report)
            self.messages["update", name] = message
            await self.accepted("updateModel", message, messages.ResponseUpdateModel)

    def update(self, name: str, report: Report) -> messages.RequestUpdateModel:
        return messages.RequestUpdateModel(
            fl_id=name,
            iteration=self.bench.number,
            masked_terms=packing.pack_terms(report.terms),
            masked_tags=packing.pack_report_tags(report.tags),
        )

    def made_up(self, name: str, elements: int = 5, tags: int = 3) -> messages.RequestUpdateModel:
        """An update that nobody has masked, with tags of that many."""
        made = Report(np.zeros(elements, np.int64), dict.fromkeys(range(tags), bytes(16)))
        return self.update(name, made)

    async def confirm(self, *names: str) -> None:
        for name in names:
            cls = messages.ResponseSecureSurvivors
            answer = await self.accepted("secure/survivors", self.read(name), cls)
            neighbours = sorted(self.views[name].offers)
            survivors = packing.unpack_survivors(answer, SIZE, neighbours)
            confirmation = self.devices[name].confirm(survivors)
            message = packing.pack_confirmation(self.place, confirmation)
            self.messages["confirm", name] = message
            await self.accepted("secure/confirm", message)

    async def make_reveal(self, name: str) -> messages.RequestSecureReveal:
        answer = await self.accepted("secure/tags", self.read(name), messages.ResponseSecureTags)
        reveal = self.devices[name].reveal(packing.unpack_tags(answer, SIZE))
        return packing.pack_reveal(self.place, reveal, SIZE)

    async def reveal(self, *names: str) -> None:
        for name in names:
            self.messages["reveal", name] = await self.make_reveal(name)
            await self.accepted("secure/reveal", self.messages["reveal", name])

    async def until(self, step: str, *names: str) -> None:
        """Everybody checks in, and all of these take all steps before that one."""
        await self.check_in(*NAMES)
        for name, act, who in (
            ("offer", self.offer, NAMES),
            ("share", self.share, NAMES),
            ("report", self.report, names or NAMES[:3]),
            ("confirm", self.confirm, names or NAMES[:3]),
            ("reveal", self.reveal, names or NAMES[:3]),
        ):
            if name == step:
                return
            await act(*who)


def trained(name: str) -> dict[str, Any]:
    factor = np.float32(1 + NAMES.index(name) / 7)
    return {
        "w000": factor * np.array([0.3, -0.5, 0.75], np.float32),
        "w001": factor * np.array([-1.3, 0.01], np.float32),
    }


def plain_digest(bench: Any, names: tuple[str, ...]) -> str:
    """SHA-256 of the model of a plain round of these devices."""
    view = bench.members[0].view
    total = Partial(view.layout, view.scaling)
    for name in names:
        arrays = [(place, trained(name)[place.tensor.name]) for place in view.layout.summed]
        total.add(Update(arrays, is_plain=True), 10 + NAMES.index(name))
    model, _ = total.finalise(view.base.model)
    return model.digest


async def open_party(bench: Any, ratio: float) -> Party:
    """A job for four devices of which that share has to report, and two members."""
    await bench.open(
        round__start_fl_job_threshold=4,
        round__update_model_ratio=ratio,
        encrypt={"encrypt_type": "SECURE_AGGREGATION"},
    )
    await bench.member()
    await bench.member()
    return Party(bench)


@pytest.fixture
async def party(bench: Any) -> Party:
    """Four devices, of which three have to report."""
    return await open_party(bench, 0.75)


async def test_a_round_of_which_one_vanished_is_the_plain_mean_of_the_others(
    bench: Any, party: Party
) -> None:
    await party.until("reveal")
    expected = plain_digest(bench, NAMES[:3])
    await party.reveal(*NAMES[:3])
    await bench.finish_round()

    assert bench.records.ended[-1].reason is None
    assert bench.records.ended[-1].model.digest == expected


async def test_the_check_in_tells_all_that_a_masked_round_needs(bench: Any, party: Party) -> None:
    await party.check_in("ann")

    secure = party.admitted.secure
    assert party.admitted.fl_plan_config.cipher.encrypt_type == "SECURE_AGGREGATION"
    assert (secure.instance, secure.attempt, secure.least_devices) == ("run-1", 1, 3)
    assert (secure.safety_bits, secure.failure_bits, secure.cohort_size) == (40, 20, 4)
    assert [(t.weight_fullname, t.elements) for t in secure.tensors] == [("w000", 3), ("w001", 2)]
    assert [t.exponent for t in secure.tensors] == list(bench.members[0].view.scaling.exponents)


async def test_a_device_that_speaks_flatbuffers_is_told_what_to_do_instead(
    bench: Any, party: Party
) -> None:
    del party
    member = bench.members[0]

    answer = (await member.flat.check_in("old")).message
    on_the_way = await member.flat.send_to("secure/offer", messages.RequestFLJob(), STEP)

    assert answer.retcode == 400
    assert answer.reason.endswith("use the SDK of fl_cluster, or ask whoever runs the job for"
                                  " PW_ENCRYPT.")  # fmt: skip
    assert on_the_way.status == 415
    assert b"SECURE_AGGREGATION" in on_the_way.body
    assert bench.cohort == {}


async def test_whoever_asks_before_the_others_are_that_far_is_told_to_ask_again(
    party: Party,
) -> None:
    await party.check_in(*NAMES)
    await party.offer(*NAMES[:3])
    early = party.read("ann", hold_ms=None)

    for path, cls in (
        ("roster", messages.ResponseSecureRoster),
        ("delivery", messages.ResponseSecureDelivery),
        ("survivors", messages.ResponseSecureSurvivors),
        ("tags", messages.ResponseSecureTags),
    ):
        status, verdict, _ = await party.refused(f"secure/{path}", early, cls)
        assert (status, verdict) == (202, "not_ready"), path


async def test_a_read_is_held_until_the_last_device_has_taken_the_step(party: Party) -> None:
    await party.check_in(*NAMES)
    await party.offer(*NAMES[:3])
    held = asyncio.create_task(
        party.accepted("secure/roster", party.read("ann", 20_000), messages.ResponseSecureRoster)
    )
    await party.offer("dan")
    await party.bench.look()

    assert len((await held).offers) == 3


async def test_a_step_takes_nobody_who_has_not_taken_the_one_before(party: Party) -> None:
    await party.check_in(*NAMES)
    await party.offer(*NAMES)
    await party.share(*NAMES[:3])
    stranger = replace(party.devices["ann"].offer, device="eve")

    at_offer = await party.refused("secure/offer", packing.pack_offer(party.place, stranger))
    read, cls = party.read("eve"), messages.ResponseSecureRoster
    at_roster = await party.refused("secure/roster", read, cls)
    update = messages.ResponseUpdateModel
    early = await party.send("updateModel", party.made_up("dan"), update)
    await party.share("dan")
    cls = messages.ResponseSecureDelivery
    at_delivery = await party.refused("secure/delivery", party.read("eve"), cls)
    at_update = await party.send("updateModel", party.made_up("eve"), update)
    await party.report(*NAMES[:3])
    cls = messages.ResponseSecureSurvivors
    at_list = await party.refused("secure/survivors", party.read("dan"), cls)

    assert at_offer[:2] == at_roster[:2] == at_list[:2] == (409, "unprepared")
    assert at_delivery[:2] == (409, "unprepared")
    assert (early[0], early[1].verdict) == (409, "unprepared")
    assert early[1].reason.startswith("The update came before the device had got the others")
    assert (at_update[0], at_update[1].verdict) == (409, "not_in_cohort")


async def test_the_same_message_is_accepted_again_and_another_one_is_not(party: Party) -> None:
    others = {
        "offer": lambda m: m._replace(share_key=party.messages["offer", "bob"].share_key),
        "share": lambda m: m._replace(commitment=bytes(32)),
    }
    await party.until("share")
    await party.share("ann", "bob", "cleo")

    for step, change in others.items():
        message = party.messages[step, "ann"]
        await party.accepted(f"secure/{step}", message)
        status, verdict, _ = await party.refused(f"secure/{step}", change(message))
        assert (status, verdict) == (409, "duplicate"), step


async def test_what_a_device_tells_its_neighbours_with_its_update_stays(party: Party) -> None:
    """It is kept before the update is counted; one with other tags would be of no use to them."""
    await party.until("report")
    cls = messages.ResponseUpdateModel
    few = await party.send("updateModel", party.made_up("ann", tags=2), cls)
    none = await party.send("updateModel", party.made_up("ann")._replace(masked_tags=None), cls)
    await party.report("ann")
    sent = party.messages["update", "ann"]
    spoilt = np.array(sent.masked_tags)
    spoilt[5] ^= 1

    again = await party.accepted("updateModel", sent, cls)
    other = await party.send("updateModel", sent._replace(masked_tags=spoilt), cls)

    for answer, sentence in ((few, "expected 3 times 16 bytes, one for"), (none, "is missing")):
        assert (answer[0], answer[1].verdict) == (400, "invalid")
        assert f"masked_tags{': ' if answer is few else ' '}{sentence}" in answer[1].reason
    assert again.receipt.position == 1
    assert (other[0], other[1].verdict) == (409, "duplicate")
    assert party.bench.counted == ["ann"]


async def test_tags_that_came_with_a_lost_update_count_when_it_comes_again(
    bench: Any, party: Party
) -> None:
    """A server dies between keeping the tags and counting the update; another goes on."""
    await party.until("report")
    await party.report("bob", "cleo")
    desk, accepted = bench.members[0].secure.desk, party.accepted

    async def keep_only(path: str, message: Any, cls: type[Any] = STEP) -> Any:
        if path != "updateModel":
            return await accepted(path, message, cls)
        return await desk.report(1, message.fl_id, message.masked_tags.tobytes())

    party.accepted = keep_only  # type: ignore[method-assign]
    await party.report("ann")
    party.accepted = accepted  # type: ignore[method-assign]
    assert sorted(bench.counted) == ["bob", "cleo"]

    await party.accepted(
        "updateModel", party.messages["update", "ann"], messages.ResponseUpdateModel
    )
    await party.confirm(*NAMES[:3])
    await party.reveal(*NAMES[:3])
    expected = plain_digest(bench, NAMES[:3])
    await bench.finish_round()

    assert bench.records.ended[-1].model.digest == expected


@pytest.mark.parametrize(
    "change", [lambda told: told.pop("ann"), lambda told: told.update(ann=b"")]
)
async def test_tags_that_the_store_has_lost_or_damaged_are_told_as_such(
    bench: Any, party: Party, change: Callable[[dict[str, bytes]], Any]
) -> None:
    await party.until("confirm")
    kept, ref = bench.rounds._exchanges, bench.ref
    whole = kept[ref]
    damaged = dict(whole.told[Step.SHARES_READ])
    change(damaged)
    kept[ref] = replace(whole, told={**whole.told, Step.SHARES_READ: damaged})

    cls = messages.ResponseSecureSurvivors
    while_damaged = await party.refused("secure/survivors", party.read("bob"), cls)
    kept[ref] = whole
    found = await party.accepted("secure/survivors", party.read("bob"), cls)

    assert while_damaged[:2] == (503, "unavailable")
    assert len(found.tags) == 2 * 16


async def test_confirmations_and_reveals_are_taken_once_too(party: Party) -> None:
    await party.until("reveal")
    await party.reveal("ann")

    for step in ("confirm", "reveal"):
        message = party.messages[step, "ann"]
        await party.accepted(f"secure/{step}", message)
    changed = np.array(party.messages["reveal", "ann"].shares)
    changed[40] += 1
    other = party.messages["reveal", "ann"]._replace(shares=changed)
    assert (await party.refused("secure/reveal", other))[:2] == (409, "duplicate")


async def test_tags_come_once_enough_neighbours_confirmed(party: Party) -> None:
    await party.until("confirm")
    await party.confirm("ann", "bob")
    cls = messages.ResponseSecureTags

    early = await party.refused("secure/tags", party.read("ann", hold_ms=300), cls)
    await party.confirm("cleo")

    assert early[:2] == (202, "not_ready")
    assert len((await party.accepted("secure/tags", party.read("ann"), cls)).tags) == 2 * 16


Change = Callable[[Any], Any]

MISFITS: list[tuple[str, str, Change, str]] = [
    ("offer", "offer", lambda m: m._replace(fl_id=None), "fl_id is missing"),
    ("offer", "offer", lambda m: m._replace(fl_id="\udcff"), "fl_id: expected UTF-8"),
    ("offer", "offer", lambda m: m._replace(mask_key=bytes(32)), "two keys of 32 bytes"),
    ("offer", "offer", lambda m: m._replace(share_key=b"short"), "two keys of 32 bytes"),
    ("offer", "offer", lambda m: m._replace(signature=b"x"), "no valid signature"),
    ("share", "share", lambda m: m._replace(sealed=m.sealed[:-1]), "sealed: expected 3 times 94"),
    ("share", "share", lambda m: m._replace(commitment=b""), "commitment: expected 32 bytes"),
    ("confirm", "confirm", lambda m: m._replace(tags=m.tags[:16]), "tags: expected 2 times 16"),
    ("reveal", "reveal", lambda m: m._replace(shares=m.shares[:-1]), "shares: expected 3 times"),
    ("reveal", "reveal", lambda m: m._replace(owners=m.owners[:0]), "expected a bitmap of 4"),
]


@pytest.mark.parametrize(("stop", "path", "change", "sentence"), MISFITS)
async def test_a_message_that_does_not_fit_is_refused_with_the_reason(
    party: Party, stop: str, path: str, change: Change, sentence: str
) -> None:
    """And the device may still send one that does."""
    await party.until(stop)
    take = {"offer": party.offer, "share": party.share, "confirm": party.confirm}.get(path)
    if path == "reveal":
        message = await party.make_reveal("ann")
    else:
        message = await made(party, path, take)

    status, verdict, reason = await party.refused(f"secure/{path}", change(message))

    assert (status, verdict) == (400, "invalid")
    assert sentence in reason
    await party.accepted(f"secure/{path}", message)


async def made(party: Party, path: str, take: Any) -> Any:
    """What Ann would send in a step, without sending it."""

    async def catch(asked: str, message: Any, cls: type[Any] = STEP) -> Any:
        return None if asked == f"secure/{path}" else await real(asked, message, cls)

    real, party.accepted = party.accepted, catch  # type: ignore[method-assign]
    await take("ann")
    party.accepted = real  # type: ignore[method-assign]
    return party.messages[path, "ann"]


async def test_what_is_no_message_is_refused(party: Party) -> None:
    member = party.bench.members[0]

    for body in (b"\xc1", b"\x80", msgpack.packb({"fl_id": 7}) or b""):
        reply = await member.ask(_post(f"{member.prefix}secure/share", body))
        assert reply.status == 400, body


def _post(path: str, body: bytes) -> bytes:
    head = f"POST {path} HTTP/1.1\r\nHost: x\r\nContent-Type: application/msgpack\r\n"
    return f"{head}Content-Length: {len(body)}\r\n\r\n".encode() + body


async def test_another_attempt_at_the_round_is_another_round(party: Party) -> None:
    await party.check_in("ann")
    message = packing.pack_offer(packing.Place(1, 2), party.devices["ann"].offer)

    status, verdict, _ = await party.refused("secure/offer", message)

    assert (status, verdict) == (409, "stale_round")


async def test_an_update_that_the_servers_could_read_is_refused(party: Party) -> None:
    await party.until("report")
    await party.accepted("secure/delivery", party.read("ann"), messages.ResponseSecureDelivery)

    reply = await party.bench.members[0].packed.report("ann", 1, plain_weights=True)
    short = await party.send(
        "updateModel", party.made_up("ann", elements=4), messages.ResponseUpdateModel
    )
    weights = tuple(messages.FeatureMap(*each) for each in trained("ann").items())
    masked = party.made_up("ann")
    both = await party.send(
        "updateModel", masked._replace(feature_map=weights), messages.ResponseUpdateModel
    )

    assert (reply.status, reply.message.verdict) == (400, "invalid")
    assert "takes no update that it can read" in reply.message.reason
    assert short[0] == 400
    assert "expected 5 elements of 8 bytes, found 32 bytes" in short[1].reason
    assert (both[0], both[1].verdict) == (400, "invalid")
    assert "feature_map beside masked_terms" in both[1].reason
    assert party.bench.counted == []


async def test_terms_under_masks_are_refused_where_nobody_could_take_the_masks_off(
    member: Any,
) -> None:
    await member.packed.check_in("d1")
    update = messages.RequestUpdateModel(
        fl_id="d1", iteration=1, masked_terms=np.zeros(40, np.int8)
    )

    reply = await member.packed.send(update)

    assert reply.status == 400
    assert "does not add updates under masks" in reply.message.reason
    assert (await member.packed.send_to("secure/offer", update, STEP)).status == 404


async def test_a_store_that_is_away_is_told_as_such(party: Party) -> None:
    await party.check_in(*NAMES)
    for member in party.bench.members:
        member.lose_store(is_noticed=False)
    message = packing.pack_offer(party.place, party.devices["ann"].offer)

    assert (await party.refused("secure/offer", message))[:2] == (503, "unavailable")
    for member in party.bench.members:
        member.find_store()
    await party.accepted("secure/offer", message)


async def test_the_round_goes_on_without_reveals_that_are_not_needed(bench: Any) -> None:
    """Of each device two of three shares suffice; the fourth has read the list and is gone."""
    party = await open_party(bench, 1.0)
    await party.until("reveal", *NAMES)
    expected = plain_digest(bench, NAMES)
    await party.reveal(*NAMES[:3])
    too_late = await party.make_reveal("dan")
    member = bench.members[0]

    while member.view.snapshot.is_unmasking:
        await bench.look()
        await member.secure.look()
        await asyncio.sleep(0.01)
    no_more = await party.refused("secure/reveal", too_late)
    await bench.finish_round()
    of_old = await party.refused("secure/reveal", too_late)

    assert bench.records.ended[-1].model.digest == expected
    assert no_more[:2] == (429, "enough")
    assert of_old[:2] == (409, "stale_round")


async def test_silence_ends_the_round_and_the_next_one_has_other_keys(
    bench: Any, party: Party
) -> None:
    await party.until("reveal")
    await party.reveal("ann")
    first, place = party.devices["ann"].offer, party.place
    bench.ahead_ms += 300_001
    await bench.rounds.tick(bench.ref)
    await bench.finish_round()
    ended = bench.records.ended[-1]

    await party.check_in(*NAMES)
    at_old = await party.refused("secure/offer", packing.pack_offer(place, first))
    await party.offer(*NAMES)

    assert ended.reason is not None
    assert ended.reason.value == "exchange_window"
    assert at_old[:2] == (409, "stale_round")
    assert party.devices["ann"].offer.share_key != first.share_key


async def test_a_sum_whose_masks_stay_on_is_not_made_a_model(party: Party) -> None:
    await party.until("reveal")
    for name in NAMES[:3]:
        message = await party.make_reveal(name)
        wrong = np.array(message.shares)
        wrong[1::33] += 1
        await party.accepted("secure/reveal", message._replace(shares=wrong))
    await party.bench.look()
    await party.bench.members[0].finisher.finish()
    await party.bench.finish_round()

    ended = party.bench.records.ended[-1]
    assert ended.reason is not None
    assert ended.reason.value == "unmask_failed"
    assert ended.model.digest == party.bench.members[0].view.base.model.digest
