"""Model files: what is written, what is read back, and what is refused with which words."""

from __future__ import annotations

import io
import os
import stat
import tracemalloc
import zipfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from fl_cluster.store import checkpoint_codec, model_files
from fl_cluster.store.model_files import read_model, write_model

# One float32 vector [1, 2] named "w", spelt out as protobuf: Checkpoint{Value{tag, TensorProto}}.
VECTOR = bytes.fromhex(
    "0a 1a"  # Checkpoint.value, 26 bytes
    "0a 01 77"  # tag "w"
    "12 15"  # tensor, 21 bytes
    "08 02"  # dims 2
    "12 07 466c6f61743332"  # tensor_type "Float32"
    "1a 08 0000803f 00000040"  # tensor_content
)


def value(name: bytes, dims: bytes, content: bytes, kind: bytes = b"Float32") -> bytes:
    """A Checkpoint message with one value; dims come encoded, lengths below 128 only."""
    tensor = dims + b"\x12" + bytes([len(kind)]) + kind + b"\x1a" + bytes([len(content)]) + content
    body = b"\x0a" + bytes([len(name)]) + name + b"\x12" + bytes([len(tensor)]) + tensor
    return b"\x0a" + bytes([len(body)]) + body


def floats(*numbers: float) -> bytes:
    return np.array(numbers, "<f4").tobytes()


@pytest.fixture
def checkpoint(tmp_path: Path) -> Callable[[bytes], Path]:
    def make(content: bytes) -> Path:
        path = tmp_path / "given.ckpt"
        path.write_bytes(content)
        return path

    return make


@pytest.fixture
def archive(tmp_path: Path) -> Callable[..., Path]:
    def make(*members: tuple[str, bytes], compression: int = zipfile.ZIP_STORED) -> Path:
        path = tmp_path / "given.npz"
        with zipfile.ZipFile(path, "w", compression) as out:
            for name, content in members:
                out.writestr(name, content)
        return path

    return make


def npy(array: np.ndarray) -> bytes:
    out = io.BytesIO()
    np.save(out, array)
    return out.getvalue()


@pytest.mark.parametrize("suffix", [".npz", ".ckpt"])
class TestBothFormats:
    def test_give_back_names_shapes_and_bits_in_the_order_written(
        self, tmp_path: Path, suffix: str
    ) -> None:
        arrays = {
            "z": np.array([[1.5, -0.0, np.nan], [np.inf, 1e-45, 3.4e38]], np.float32),
            "скаляр": np.array(7, np.float32),
            "a/b 'quoted'": np.arange(24, dtype=np.float32).reshape(2, 3, 4),
            "one": np.array([5], np.float32),
        }
        path = tmp_path / f"model{suffix}"

        write_model(path, arrays)
        back = read_model(path)

        assert list(arrays) == list(back)
        for name, array in arrays.items():
            assert (array.shape, array.tobytes()) == (back[name].shape, back[name].tobytes())
            assert back[name].dtype == np.float32
            assert back[name].flags.writeable
            assert back[name].flags.c_contiguous

    def test_store_views_of_any_stride_in_c_order(self, tmp_path: Path, suffix: str) -> None:
        base = np.arange(24, dtype=np.float32).reshape(4, 6)
        arrays = {"t": base.T, "step": base[::2, ::3], "f": np.asfortranarray(base)}
        path = tmp_path / f"model{suffix}"

        write_model(path, arrays)

        for name, array in read_model(path).items():
            np.testing.assert_array_equal(arrays[name], array)

    def test_equal_models_are_equal_files(self, tmp_path: Path, suffix: str) -> None:
        arrays = {"a": np.ones(3, np.float32), "b": np.zeros((2, 2), np.float32)}
        first, second = tmp_path / f"1{suffix}", tmp_path / f"2{suffix}"

        write_model(first, arrays)
        write_model(second, arrays)

        assert first.read_bytes() == second.read_bytes()

    def test_a_read_only_file_can_be_written_again(self, tmp_path: Path, suffix: str) -> None:
        path = tmp_path / f"model{suffix}"
        write_model(path, {"a": np.zeros(1, np.float32)}, 0o400)

        write_model(path, {"a": np.ones(1, np.float32)}, 0o400)

        assert read_model(path)["a"].tolist() == [1.0]
        assert stat.S_IMODE(path.stat().st_mode) == 0o400

    def test_a_failed_write_leaves_the_old_file_and_nothing_else(
        self, tmp_path: Path, suffix: str, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        path = tmp_path / f"model{suffix}"
        write_model(path, {"a": np.zeros(1, np.float32)})

        def full(_: int) -> None:
            raise OSError(28, "No space left on device")

        with monkeypatch.context() as patch:
            patch.setattr(os, "fsync", full)
            with pytest.raises(OSError, match="No space left"):
                write_model(path, {"a": np.ones(1, np.float32)})

        assert read_model(path)["a"].tolist() == [0.0]
        assert [path] == list(tmp_path.iterdir())

    def test_reading_needs_little_more_memory_than_the_model(
        self, tmp_path: Path, suffix: str
    ) -> None:
        size = 4_000_000
        path = tmp_path / f"model{suffix}"
        write_model(path, {"a": np.ones(size, np.float32), "b": np.ones(size, np.float32)})
        tracemalloc.start()

        read_model(path)
        peak = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()

        assert peak < 1.2 * 8 * size

    def test_writing_needs_little_memory_beside_the_model(
        self, tmp_path: Path, suffix: str
    ) -> None:
        arrays = {"a": np.ones(8_000_000, np.float32)}
        tracemalloc.start()

        write_model(tmp_path / f"model{suffix}", arrays)
        peak = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()

        assert peak < 0.6 * arrays["a"].nbytes

    @pytest.mark.parametrize("content", [b"", b"\0", b"PK\3\4", b"not a model at all" * 9])
    def test_garbage_is_refused_with_the_name_of_the_file(
        self, tmp_path: Path, suffix: str, content: bytes
    ) -> None:
        path = tmp_path / f"bad{suffix}"
        path.write_bytes(content)

        with pytest.raises(ValueError, match=rf"bad\{suffix}.*expected"):
            read_model(path)

    def test_a_cut_file_is_refused_wherever_it_was_cut(self, tmp_path: Path, suffix: str) -> None:
        whole = tmp_path / f"whole{suffix}"
        write_model(whole, {"a": np.ones(3, np.float32), "b": np.ones((2, 2), np.float32)})
        content = whole.read_bytes()
        boundaries = {0, len(content)}
        if suffix == ".ckpt":  # one message per tensor: the first alone is a whole checkpoint
            boundaries.add(content.index(b"\x0a", 2 + content[1]))
        path = tmp_path / f"cut{suffix}"

        for length in set(range(len(content))) - boundaries:
            path.write_bytes(content[:length])
            with pytest.raises(ValueError, match="cut"):
                read_model(path)

    def test_what_is_no_file_is_refused(self, tmp_path: Path, suffix: str) -> None:
        (tmp_path / f"folder{suffix}").mkdir()
        os.mkfifo(tmp_path / f"pipe{suffix}")

        with pytest.raises(ValueError, match=r"gone.*cannot be read: No such file"):
            read_model(tmp_path / f"gone{suffix}")
        for name in ("folder", "pipe"):
            with pytest.raises(ValueError, match=f"{name}.*expected a file"):
                read_model(tmp_path / f"{name}{suffix}")


@pytest.mark.parametrize(
    ("arrays", "reason"),
    [
        ({}, "at least one tensor"),
        ({"": np.zeros(1, np.float32)}, "1 to 1024 bytes"),
        ({"n" * 1025: np.zeros(1, np.float32)}, "1 to 1024 bytes"),
        ({"a\0b": np.zeros(1, np.float32)}, "without NUL"),
        ({"\ud800": np.zeros(1, np.float32)}, "not valid Unicode"),
        ({"w": np.zeros(1)}, "expected float32"),
        ({"w": np.zeros((3, 0), np.float32)}, "at least one element"),
    ],
)
def test_what_no_model_file_can_hold_is_not_written(
    tmp_path: Path, arrays: dict[str, np.ndarray], reason: str
) -> None:
    with pytest.raises(ValueError, match=reason):
        write_model(tmp_path / "m.ckpt", arrays)

    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("name", ["m.pkl", "m", "m.mindir", ".npz"])
def test_other_suffixes_are_refused(tmp_path: Path, name: str) -> None:
    with pytest.raises(ValueError, match=r"ends in \.npz or \.ckpt"):
        read_model(tmp_path / name)
    with pytest.raises(ValueError, match=r"ends in \.npz or \.ckpt"):
        write_model(tmp_path / name, {"w": np.zeros(1, np.float32)})


def test_a_new_file_has_the_mode_that_the_umask_leaves(tmp_path: Path) -> None:
    before = os.umask(0o027)
    try:
        write_model(tmp_path / "m.npz", {"w": np.zeros(1, np.float32)})
    finally:
        os.umask(before)

    assert stat.S_IMODE((tmp_path / "m.npz").stat().st_mode) == 0o640


class TestCheckpoint:
    def test_is_the_protobuf_that_mindspore_reads(self, tmp_path: Path) -> None:
        write_model(tmp_path / "m.ckpt", {"w": np.array([1, 2], np.float32)})

        assert (tmp_path / "m.ckpt").read_bytes() == VECTOR

    def test_has_dims_zero_for_a_scalar(self, tmp_path: Path) -> None:
        write_model(tmp_path / "m.ckpt", {"w": np.array(1, np.float32)})

        assert value(b"w", b"\x08\x00", floats(1)) == (tmp_path / "m.ckpt").read_bytes()

    @pytest.mark.parametrize(
        ("dims", "shape"),
        [(b"\x08\x00", ()), (b"", ()), (b"\x08\x01", (1,)), (b"\x0a\x02\x01\x01", (1, 1))],
    )
    def test_scalars_unpacked_and_packed_dims_are_understood(
        self, checkpoint: Callable[[bytes], Path], dims: bytes, shape: tuple[int, ...]
    ) -> None:
        array = read_model(checkpoint(value(b"w", dims, floats(4))))["w"]

        assert (shape, 4.0) == (array.shape, array.item())

    def test_one_message_with_many_values_is_the_same_as_many_messages(
        self, checkpoint: Callable[[bytes], Path]
    ) -> None:
        two = value(b"a", b"\x08\x01", floats(1)) + value(b"b", b"\x08\x01", floats(2))

        assert {name: array.tolist() for name, array in read_model(checkpoint(two)).items()} == {
            "a": [1.0],
            "b": [2.0],
        }

    def test_fields_may_come_in_any_order_and_unknown_ones_are_passed_over(
        self, checkpoint: Callable[[bytes], Path]
    ) -> None:
        tensor = b"\x1a\x04" + floats(9) + b"\x12\x07Float32" + b"\x20\x05" + b"\x08\x01"
        body = b"\x12" + bytes([len(tensor)]) + tensor + b"\x0a\x01w" + b"\x2d1234"
        content = b"\x11" + b"12345678" + b"\x0a" + bytes([len(body)]) + body + b"\x1a\x01?"

        assert read_model(checkpoint(content))["w"].tolist() == [9.0]

    def test_other_types_are_passed_over_with_a_line_in_the_log(
        self, checkpoint: Callable[[bytes], Path], caplog: pytest.LogCaptureFixture
    ) -> None:
        caplog.set_level("INFO")
        step = value(b"step", b"\x08\x01", b"\1\0\0\0", b"Int32")

        arrays = read_model(checkpoint(step + VECTOR + b"\x0a\x03\x0a\x01x"))

        assert list(arrays) == ["w"]
        assert [record.message.split(": ")[1].split(",")[0] for record in caplog.records] == [
            "'step' is Int32",
            "'x' is no tensor",
        ]

    def test_a_parameter_in_slices_is_one_tensor(self, tmp_path: Path) -> None:
        array = np.arange(10, dtype=np.float32).reshape(5, 2)
        path = tmp_path / "m.ckpt"
        with path.open("wb") as file:
            checkpoint_codec.write_checkpoint(file, {"a": array, "b": array[0]}, slice_bytes=16)

        back = read_model(path)

        # 40 bytes in slices of at most 16: NumPy's array_split makes 4 + 3 + 3 of ten.
        assert path.read_bytes().count(b"\x0a\x01a") == 3
        np.testing.assert_array_equal(array, back["a"])
        np.testing.assert_array_equal(array[0], back["b"])

    @pytest.mark.parametrize(
        ("content", "place", "expected"),
        [
            (VECTOR[:-1], "byte 0 ", "a field of at most"),
            (b"\x0a", "byte 1 ", "a number"),
            (b"\x0b", "byte 0 ", "a field, found wire type 3"),
            (b"\x00\x00", "byte 0 ", "a field, found number 0"),
            (b"\x08\x01", "byte 0 ", "a value, found wire type 0"),
            (b"\x0a" + b"\xff" * 10 + b"\1", "byte 1 ", "at most 64 bits"),
            (b"\x0a\x00", "byte 2 ", "a value with a tag"),
            (b"\x1a\x01?", "byte 3 ", "at least one Float32 parameter"),
            (value(b"\xff", b"\x08\x01", floats(1)), "byte 4 ", "a parameter's name in UTF-8"),
            (value(b"w", b"\x08\x02", floats(1)), "byte 20 ", r"shape \(2,\), 8 bytes, found 4"),
            (value(b"w", b"\x08\x00", b""), "byte 20 ", r"shape \(\), 4 bytes, found 0"),
            (value(b"w", b"\x08\x03\x08\x00", b""), "byte 22 ", r"shape \(3, 0\), 0 bytes"),
            (value(b"w", b"\x08" + b"\xff" * 9 + b"\x01", b""), "byte 7 ", "none negative"),
            (value(b"w", b"\x08\x01" * 33, floats(1)), "byte 71 ", "at most 32 dimensions"),
            (value(b"w", b"\x0d\x01\x00\x00\x00", floats(1)), "byte 7 ", "a dimension"),
            (value(b"w", b"", floats(1), b""), "byte 9 ", "a type's name of 1 to 32"),
            (b"\x0a\x07\x0a\x01w\x12\x02\x1a\x00", "byte 7 ", "type and content"),
            (b"\x0a\x06\x0a\x01w\x0a\x01w", "byte 5 ", "field 1 once"),
            (VECTOR + value(b"x", b"", floats(1)) + VECTOR, "byte 52 ", "one tensor per name"),
            (VECTOR + value(b"w", b"\x08\x01", floats(1)), "byte 30 ", "dims and type of 'w'"),
        ],
    )
    def test_that_breaks_the_format_is_refused_with_place_and_expectation(
        self, checkpoint: Callable[[bytes], Path], content: bytes, place: str, expected: str
    ) -> None:
        with pytest.raises(ValueError, match=rf"given\.ckpt: .*{place}expected.*{expected}"):
            read_model(checkpoint(content))

    def test_that_claims_a_huge_tensor_costs_no_memory(
        self, checkpoint: Callable[[bytes], Path]
    ) -> None:
        huge = b"\x08\xff\xff\xff\xff\x7f" * 4
        path = checkpoint(value(b"w", huge, floats(1)))
        tracemalloc.start()

        with pytest.raises(ValueError, match="found 4 bytes"):
            read_model(path)
        peak = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()

        assert peak < 1_000_000


class TestArchive:
    def test_is_what_numpy_reads(self, tmp_path: Path) -> None:
        arrays = {"file": np.ones((2, 3), np.float32), "s": np.array(3, np.float32)}
        write_model(tmp_path / "m.npz", arrays)

        with np.load(tmp_path / "m.npz", allow_pickle=False) as loaded:
            assert {name: array.tolist() for name, array in arrays.items()} == {
                name: loaded[name].tolist() for name in loaded.files
            }

    def test_of_numpy_is_read_compressed_or_not(self, tmp_path: Path) -> None:
        array = np.arange(6, dtype=np.float32).reshape(2, 3)
        np.savez(tmp_path / "plain.npz", w=array)
        np.savez_compressed(tmp_path / "packed.npz", w=array)

        for name in ("plain.npz", "packed.npz"):
            np.testing.assert_array_equal(array, read_model(tmp_path / name)["w"])

    @pytest.mark.parametrize("kind", ["<f8", ">f4", "<f2", ">f8"])
    def test_other_floats_are_converted(self, tmp_path: Path, kind: str) -> None:
        array = (np.arange(300_000) / 7).astype(kind)
        np.savez(tmp_path / "m.npz", w=array)

        np.testing.assert_array_equal(array.astype("f4"), read_model(tmp_path / "m.npz")["w"])

    def test_fortran_order_becomes_c_order(self, tmp_path: Path) -> None:
        array = np.arange(6, dtype=np.float32).reshape(2, 3)
        np.savez(tmp_path / "m.npz", w=np.asfortranarray(array))

        back = read_model(tmp_path / "m.npz")["w"]

        np.testing.assert_array_equal(array, back)
        assert back.flags.c_contiguous

    @pytest.mark.parametrize(
        ("content", "expected"),
        [
            (npy(np.zeros(2, np.int64)), "float16, float32 or float64, found type '<i8'"),
            (npy(np.zeros(2, np.complex64)), "found type '<c8'"),
            (npy(np.zeros(0, np.float32)), "data of shape"),
            (npy(np.zeros(2, np.float32))[:-1], "8 bytes, found 7"),
            (npy(np.zeros(2, np.float32)) + b"\0", "8 bytes, found 9"),
            (b"\x93NUMPY\x09\0" + b"\0" * 99, "format 1 to 3"),
            (b"\x93NUMPY\x02\0\xff\xff\xff\xff", "header of at most 4096"),
            (b"\x93NUMPY\x01\0\x02\0[[", "a Python dict"),
            (b"\x93NUMPY\x01\0\x02\0{}", "descr, fortran_order and shape"),
            (b"\x93NUMPY\x01\0\x09\0exit(1)  ", "a Python dict"),
            (b"\x93NUM", "8 more bytes"),
        ],
    )
    def test_member_that_is_no_float_array_is_refused(
        self, archive: Callable[..., Path], content: bytes, expected: str
    ) -> None:
        with pytest.raises(ValueError, match=rf"given\.npz: w\.npy: .*{expected}"):
            read_model(archive(("w.npy", content)))

    @pytest.mark.parametrize("shape", ["(-1,)", "(2.0,)", "(True,)", "(1,) * 2", f"{(1,) * 33}"])
    def test_shape_that_no_array_has_is_refused(
        self, archive: Callable[..., Path], shape: str
    ) -> None:
        header = f"{{'descr': '<f4', 'fortran_order': False, 'shape': {shape}}}".encode()
        magic = b"\x93NUMPY\x01\0" + len(header).to_bytes(2, "little")

        with pytest.raises(ValueError, match=r"w\.npy: expected"):
            read_model(archive(("w.npy", magic + header + floats(1))))

    def test_pickled_objects_are_never_loaded(self, tmp_path: Path) -> None:
        np.savez(tmp_path / "m.npz", w=np.array([print], dtype=object))

        with pytest.raises(ValueError, match=r"found type '\|O'"):
            read_model(tmp_path / "m.npz")

    def test_members_other_than_arrays_are_refused(self, archive: Callable[..., Path]) -> None:
        good = npy(np.zeros(1, np.float32))

        for name in ("readme.txt", ".npy"):
            with pytest.raises(ValueError, match=r"expected members NAME\.npy"):
                read_model(archive(("w.npy", good), (name, good)))

    def test_a_name_twice_is_refused(self, archive: Callable[..., Path]) -> None:
        good = npy(np.zeros(1, np.float32))

        with pytest.warns(UserWarning, match="Duplicate name"):
            path = archive(("w.npy", good), ("w.npy", good))
        with pytest.raises(ValueError, match="each name once"):
            read_model(path)

    def test_an_empty_archive_is_refused(self, archive: Callable[..., Path]) -> None:
        with pytest.raises(ValueError, match="at least one tensor"):
            read_model(archive())

    def test_other_compressions_are_refused(self, archive: Callable[..., Path]) -> None:
        path = archive(("w.npy", npy(np.zeros(1, np.float32))), compression=zipfile.ZIP_LZMA)

        with pytest.raises(ValueError, match="stored or deflated"):
            read_model(path)

    def test_a_claim_beyond_what_deflate_can_do_is_refused(
        self, archive: Callable[..., Path]
    ) -> None:
        path = archive(("w.npy", npy(np.zeros(9, np.float32))), compression=zipfile.ZIP_DEFLATED)
        content = bytearray(path.read_bytes())
        directory = content.index(b"PK\1\2")
        content[directory + 24 : directory + 28] = (2**30).to_bytes(4, "little")
        path.write_bytes(content)

        with pytest.raises(ValueError, match="cannot unpack to 1073741824"):
            read_model(path)

    def test_changed_data_is_refused(self, archive: Callable[..., Path]) -> None:
        path = archive(("w.npy", npy(np.ones(9, np.float32))))
        content = bytearray(path.read_bytes())
        content[content.index(floats(1, 1, 1))] ^= 1
        path.write_bytes(content)

        with pytest.raises(ValueError, match="Bad CRC-32"):
            read_model(path)


def test_a_network_file_system_without_folder_sync_is_no_error(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = os.fsync

    def files_only(descriptor: int) -> None:
        if stat.S_ISDIR(os.fstat(descriptor).st_mode):
            raise OSError(22, "Invalid argument")
        real(descriptor)

    monkeypatch.setattr(os, "fsync", files_only)
    write_model(tmp_path / "m.npz", {"w": np.zeros(1, np.float32)})

    assert model_files.read_model(tmp_path / "m.npz")["w"].tolist() == [0.0]
