"""Updates of every form: as devices make them, as genuine devices sent them, and spoilt."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from fl_cluster.compression import diff_sparse_quant as sparse
from fl_cluster.compression.quant import Chunk, dequantise, quantise
from fl_cluster.compression.sparse import choose
from fl_cluster.sdk.protection import Demand, Protector
from fl_cluster.wire import flat, messages

GOLDEN = Path(__file__).resolve().parents[2] / "data" / "golden"
SPARSE = {
    "compression__upload_compress_type": "DIFF_SPARSE_QUANT",
    "compression__upload_sparse_rate": 0.4,
    "compression__download_compress_type": "QUANT",
}
SIGNS = {
    "encrypt__encrypt_type": "SIGNDS",
    "encrypt": {"encrypt_type": "SIGNDS", "signds": {"sign_global_lr": 0.5, "sign_k": 0.2}},
}
BASE = {"w000": np.float32([0.25, 0.5, 0.75]), "w001": np.float32([-1.25, 0.5])}
TRAINED = {"w000": np.float32([0.5, 0.5, 0.5]), "w001": np.float32([-1.0, 1.0])}


def captured(mode: str, step: str, cls: type[Any]) -> Any:
    return flat.decode(cls, (GOLDEN / f"{mode}__c1__{step}.bin").read_bytes())


def model_of(answer: Any) -> dict[str, list[float]]:
    if answer.download_compress_type == 2:
        return {
            entry.weight_fullname: dequantise(
                Chunk(entry.compress_data, entry.min_val, entry.max_val)
            ).tolist()
            for entry in answer.compress_feature_map
        }
    return {entry.weight_fullname: entry.data.tolist() for entry in answer.feature_map}


async def published(bench: Any, member: Any, number: int = 1) -> dict[str, list[float]]:
    await bench.finish_round()
    return model_of((await member.flat.get_model(number)).message)


def expected_of(update: Any, base: dict[str, Any], data_size: int) -> dict[str, Any]:
    """What a sparse update says the weights are, by the arithmetic that has its own tests."""
    names = update.name_vec
    kept = choose(update.iteration, update.upload_sparse_rate, [base[n].size for n in names])
    found = {}
    for name, entry, choice in zip(names, update.compress_feature_map, kept, strict=True):
        chunk = Chunk(entry.compress_data, entry.min_val, entry.max_val)
        found[name] = sparse.decode(base[name], chunk, choice, data_size) / np.float32(data_size)
    return found


async def a_sparse_round(bench: Any) -> Any:
    """A member of a job with compression that two devices have checked in to."""
    await bench.open(**SPARSE)
    member = await bench.member()
    for device in ("d1", "d2"):
        reply = await member.flat.check_in(device, download_compress_types=(0, 2))
        assert reply.message.upload_compress_type == 1
        assert reply.message.upload_sparse_rate == pytest.approx(0.4)
    return member


def sparse_fields(**changes: Any) -> dict[str, Any]:
    demand = Demand("NOT_ENCRYPT", messages.DPParams(), messages.DSParams(), float(np.float32(0.4)))
    fields = Protector().fields(demand, TRAINED, BASE, data_size=10, number=1)
    return {"feature_map": None, **fields, **changes}


async def test_sparse_updates_are_averaged_as_what_they_stand_for(bench: Any) -> None:
    member = await a_sparse_round(bench)
    sent = [member.flat.report_message(d, **sparse_fields()) for d in ("d1", "d2")]
    for message in sent:
        assert (await member.flat.send(message)).message.reason == "success not ready"

    found = await published(bench, member)

    expected = expected_of(sent[0], BASE, 10)
    for name, values in expected.items():
        assert found[name] == pytest.approx(values.tolist(), abs=1e-6)


async def test_a_plain_update_beside_a_sparse_one_is_taken(bench: Any) -> None:
    member = await a_sparse_round(bench)
    sparse_one = member.flat.report_message("d1", **sparse_fields())
    assert (await member.flat.send(sparse_one)).message.retcode == 200
    plain = {name: (values * 10).tolist() for name, values in TRAINED.items()}
    assert (await member.flat.report("d2", tensors=plain)).message.retcode == 200

    found = await published(bench, member)

    expected = expected_of(sparse_one, BASE, 10)
    for name, values in expected.items():
        assert found[name] == pytest.approx(((values + TRAINED[name]) / 2).tolist(), abs=1e-6)


async def test_a_model_in_8_bits_has_every_tensor_and_is_for_those_who_know_it(
    bench: Any,
) -> None:
    await bench.open(**SPARSE)
    member = await bench.member()

    small = (await member.flat.check_in("d1", download_compress_types=(0, 2))).message
    plain = (await member.flat.check_in("d2")).message
    native = (await member.packed.get_model(0, download_compress_types=(2,))).message

    assert (small.download_compress_type, plain.download_compress_type) == (2, 0)
    assert (small.feature_map, plain.compress_feature_map) == ((), ())
    assert [each.weight_fullname for each in small.compress_feature_map] == [
        "steps",
        "w000",
        "w001",
    ]
    chunk = quantise(BASE["w000"])
    entry = small.compress_feature_map[1]
    assert (entry.compress_data.tolist(), entry.min_val) == (chunk.quants.tolist(), chunk.minimum)
    assert [each.shape for each in native.compress_feature_map] == [(1,), (3,), (2,)]


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"upload_sparse_rate": 0.5}, "expected an upload_sparse_rate of 0.4"),
        ({"name_vec": ()}, "names no tensor"),
        ({"name_vec": ("w000", "w9")}, "'w9' is not in the model"),
        ({"name_vec": ("w000", "w000")}, "'w000' came twice"),
        ({"compress_feature_map": ()}, "expected 2 compressed tensors, found 0"),
        (
            {
                "compress_feature_map": (
                    messages.CompressFeatureMap("w000", np.zeros(3, np.int8), 0.0, 1.0),
                    messages.CompressFeatureMap("w001", np.zeros(2, np.int8), 0.0, 1.0),
                )
            },
            "expected 2 kept values in all, found 5",
        ),
        (
            {
                "compress_feature_map": (
                    messages.CompressFeatureMap("w000", np.zeros(2, np.int8), 0.0, 1.0),
                )
            },
            "expected 2 compressed tensors, found 1",
        ),
        (
            {
                "compress_feature_map": (
                    messages.CompressFeatureMap("w000", np.zeros(0, np.int8), 0.0, 1.0),
                    messages.CompressFeatureMap("w001", np.zeros(2, np.int8), 0.0, 1.0),
                )
            },
            "compressed tensor 0: expected 1 kept values, found 0",
        ),
    ],
)
async def test_a_sparse_update_that_is_none_is_refused(
    bench: Any, changes: dict[str, Any], words: str
) -> None:
    member = await a_sparse_round(bench)
    sent = member.flat.report_message("d1", **sparse_fields(**changes))

    old = (await member.flat.send(sent)).message
    new = await member.packed.send(sent)

    assert old.retcode == 400
    assert old.reason.startswith("Verify model feature map failed, retry later at time: ")
    assert (new.status, new.message.verdict) == (400, "invalid")
    assert words in new.message.reason


async def test_a_sparse_update_that_is_too_large_for_the_sums_is_out_of_range(bench: Any) -> None:
    member = await a_sparse_round(bench)
    fields = sparse_fields()
    large = tuple(
        entry._replace(max_val=1e30) if entry.compress_data.size else entry
        for entry in fields["compress_feature_map"]
    )

    sent = member.packed.report_message("d1", **{**fields, "compress_feature_map": large})
    reply = await member.packed.send(sent)

    assert (reply.status, reply.message.verdict) == (400, "out_of_range")
    again = member.packed.report_message("d1", **sparse_fields())
    assert (await member.packed.send(again)).message.verdict == "accepted"


async def test_a_sparse_repeat_of_a_round_that_is_over_gets_its_receipt(bench: Any) -> None:
    member = await a_sparse_round(bench)
    sent = [member.packed.report_message(d, **sparse_fields()) for d in ("d1", "d2")]
    receipts = [(await member.packed.send(message)).message.receipt for message in sent]
    await bench.finish_round()

    again = (await member.packed.send(sent[0])).message

    assert again.receipt == receipts[0]


async def a_signed_round(bench: Any) -> Any:
    await bench.open(encrypt=SIGNS["encrypt"])
    member = await bench.member()
    for device in ("d1", "d2"):
        plan = (await member.flat.check_in(device)).message.fl_plan_config
        assert plan.cipher.encrypt_type == "SIGNDS"
        assert plan.cipher.ds_params.sign_global_lr == 0.5
    return member


def signed(member: Any, device: str, sign: int, indices: tuple[int, ...]) -> Any:
    empty = np.empty(0, np.float32)
    names = tuple(messages.FeatureMap(name, empty) for name in ("w000", "w001"))
    return member.flat.report_message(device, feature_map=names, sign=sign, index_array=indices)


async def test_signs_move_the_chosen_elements_and_nothing_else(bench: Any) -> None:
    member = await a_signed_round(bench)
    for device, sign, indices in (("d1", 1, (0, 3)), ("d2", -1, (3, 4))):
        sent = signed(member, device, sign, indices)
        assert (await member.flat.send(sent)).message.retcode == 200

    found = await published(bench, member)

    # Half of the devices moved an element by 0.5, up or down.
    assert found["w000"] == [0.5, 0.5, 0.75]
    assert found["w001"] == [-1.25, 0.25]


@pytest.mark.parametrize(
    ("sign", "indices", "words"),
    [
        (1, (), "expected from 1 to 5 indices, found 0"),
        (1, (5,), "expected indices from 0 to 4"),
        (1, (3, 3), "rising order"),
        (1, (4, 3), "rising order"),
        (2, (1,), "expected a sign of 1 or -1"),
    ],
)
async def test_signs_that_are_none_are_refused(
    bench: Any, sign: int, indices: tuple[int, ...], words: str
) -> None:
    member = await a_signed_round(bench)
    sent = signed(member, "d1", sign, indices)

    assert (await member.flat.send(sent)).message.retcode == 400
    assert words in (await member.packed.send(sent)).message.reason


async def test_the_numbers_of_noise_reach_devices(bench: Any) -> None:
    await bench.open(encrypt={"encrypt_type": "DP_ENCRYPT", "dp_encrypt": {"dp_eps": 5.0}})
    member = await bench.member()

    cipher = (await member.flat.check_in("d1")).message.fl_plan_config.cipher

    assert cipher.encrypt_type == "DP_ENCRYPT"
    assert cipher.dp_params == messages.DPParams(5.0, pytest.approx(0.01), 1.0)
    assert (cipher.pw_params.t, cipher.pw_params.g) == (1, 1)


async def test_every_number_of_noise_is_told_as_it_is_configured(bench: Any) -> None:
    numbers = {"dp_eps": 5.0, "dp_delta": 0.25, "dp_norm_clip": 3.0}
    await bench.open(encrypt={"encrypt_type": "DP_ENCRYPT", "dp_encrypt": numbers})
    member = await bench.member()

    cipher = (await member.flat.check_in("d1")).message.fl_plan_config.cipher

    assert cipher.dp_params == messages.DPParams(**numbers)


async def test_every_number_of_signs_is_told_as_it_is_configured(bench: Any) -> None:
    numbers = {
        "sign_k": 0.25,
        "sign_eps": 50.0,
        "sign_thr_ratio": 0.75,
        "sign_global_lr": 0.5,
        "sign_dim_out": 7,
    }
    await bench.open(encrypt={"encrypt_type": "SIGNDS", "signds": numbers})
    member = await bench.member()

    cipher = (await member.flat.check_in("d1")).message.fl_plan_config.cipher

    assert cipher.ds_params == messages.DSParams(**numbers)


@pytest.mark.parametrize("upload", ["NO_COMPRESS", "DIFF_SPARSE_QUANT"])
@pytest.mark.parametrize("download", ["NO_COMPRESS", "QUANT"])
async def test_each_way_is_compressed_as_its_own_key_says(
    bench: Any, upload: str, download: str
) -> None:
    await bench.open(
        compression__upload_compress_type=upload,
        compression__upload_sparse_rate=0.5,
        compression__download_compress_type=download,
    )
    member = await bench.member()

    told = (await member.flat.check_in("d1", download_compress_types=(0, 2))).message

    assert told.upload_compress_type == (1 if upload == "DIFF_SPARSE_QUANT" else 0)
    assert told.upload_sparse_rate == 0.5
    assert told.download_compress_type == (2 if download == "QUANT" else 0)
    assert bool(told.compress_feature_map) is (download == "QUANT")
    assert bool(told.feature_map) is (download == "NO_COMPRESS")


@pytest.mark.parametrize("mode", ["dsq", "signds", "dp"])
async def test_what_a_genuine_device_sent_is_counted_as_what_it_stands_for(
    bench: Any, mode: str
) -> None:
    began = captured(mode, "00_startFLJob_res", messages.ResponseFLJob)
    asked = captured(mode, "00_startFLJob_req", messages.RequestFLJob)
    sent = captured(mode, "01_updateModel_req", messages.RequestUpdateModel)
    base = {name: np.float32(values) for name, values in model_of(began).items()}
    bench.weights = {name: values.tolist() for name, values in base.items()}
    cipher = began.fl_plan_config.cipher
    settings = {
        "dsq": SPARSE | {"compression__upload_sparse_rate": float(began.upload_sparse_rate)},
        "signds": {
            "encrypt": {
                "encrypt_type": "SIGNDS",
                "signds": {"sign_global_lr": float(cipher.ds_params.sign_global_lr)},
            }
        },
        "dp": {"encrypt": {"encrypt_type": "DP_ENCRYPT"}},
    }[mode]
    await bench.open(round__start_fl_job_threshold=1, **settings)
    member = await bench.member()

    admitted = (await member.flat.send(asked)).message
    assert (admitted.retcode, admitted.download_compress_type) == (
        200,
        began.download_compress_type,
    )
    reply = (await member.flat.send(sent)).message
    assert (reply.retcode, reply.reason) == (200, "success not ready")
    await bench.finish_round()
    asked_model = captured(mode, "02_getModel_req", messages.RequestGetModel)
    found = model_of((await member.flat.send(asked_model)).message)

    if mode == "dsq":
        expected = expected_of(sent, base, asked.data_size)
    elif mode == "dp":
        expected = {
            entry.weight_fullname: entry.data / np.float32(asked.data_size)
            for entry in sent.feature_map
        }
    else:
        names = [entry.weight_fullname for entry in sent.feature_map]
        whole = np.concatenate([base[name] for name in names])
        step = np.float32(sent.sign) * np.float32(cipher.ds_params.sign_global_lr)
        whole[list(sent.index_array)] += step
        ends = np.cumsum([base[name].size for name in names])[:-1]
        expected = dict(zip(names, np.split(whole, ends), strict=True))
    for name, values in expected.items():
        grid = (values.max() - values.min()) / 510 + 1e-6 if mode == "dsq" else 1e-6
        assert found[name] == pytest.approx(values.tolist(), abs=float(grid))
