"""Invariant: any bytes, cut anywhere, are the same frames and then a PeerProtocolError or silence.

Every frame that comes out encodes and comes back; memory stays within a hundred times the
input, and nothing else ever comes out.  Usage: python fuzz/frames.py [--seconds N] [--seed N].
Mutates streams of frames; a finding is kept beside this file and ends the run with exit code 1.
"""

from __future__ import annotations

import argparse
import random
import struct
import sys
import time
import tracemalloc
from pathlib import Path

import msgpack

from fl_cluster.errors import PeerProtocolError
from fl_cluster.wire import frames
from fl_cluster.wire.frames import Answer, Beat, Bye, Command, Frame, FrameReader, Hello, Ping

HONEST: list[Frame] = [
    Hello("127.0.0.1:11202::scheduler", "127.0.0.1:35001::2026-11-25-10:00:00.000.000::54321"),
    Beat({"cpu_percent": 12.5, "resident_bytes": 2**40, "requests_per_s": 0.1}),
    Ping(),
    Command(1, "drain"),
    Answer(2**62, "unknown command"),
    Bye("this server stops"),
]
CORPUS = [frames.encode(frame) for frame in HONEST]
# First bytes of every msgpack family, lengths that promise more than there is, and deep nests.
PIECES = [bytes([first]) for first in (*range(0x7F, 0xA2), *range(0xBF, 0x100))]
PIECES += [b"\xdd\xff\xff\xff\xff", b"\xdf\xff\xff\xff\xff", b"\xc6\xff\xff\xff\xff"]
PIECES += [b"\xa4kind", b"\xa7figures", b"\xa6serial", b"\xd6\xff\0\0\0\0", b"\xc7\x0c\xff"]
PIECES += [b"\x91" * 600, b"\x81\xa1a" * 300, b"\x90" * 60, b"FL\x01", b"FL\x02"]
MEMORY_TIMES, MEMORY_MORE = 100, 100_000


def mutated(rng: random.Random, data: bytearray) -> bytearray:
    """The bytes with a few changes: bits, bytes, pieces, copies, cuts."""
    for _ in range(rng.randint(1, 4)):
        at = rng.randrange(len(data)) if data else 0
        length = rng.choice((0, 1, 1, 2, 5, 40))
        match rng.randrange(5):
            case 0 if data:
                data[at] ^= 1 << rng.randrange(8)
            case 1:
                data[at : at + length] = rng.randbytes(length)
            case 2:
                data[at : at + length] = rng.choice(PIECES)
            case 3:
                data[at:at] = data[at : at + length] * rng.randint(1, 50)
            case _:
                del data[at : at + length]
    return data


def a_stream(rng: random.Random) -> bytes:
    """Some frames; payloads are damaged under a header that still tells their length."""
    stream = bytearray()
    for _ in range(rng.randint(1, 4)):
        frame = bytearray(rng.choice(CORPUS))
        match rng.randrange(4):
            case 0:
                payload = mutated(rng, frame[7:])
                frame = bytearray(struct.pack(">2sBI", b"FL", 1, len(payload))) + payload
            case 1:
                payload = bytearray(msgpack.packb({"kind": "beat", "figures": {}}))
                payload[-1:] = rng.choice(PIECES) * rng.randint(1, 400)
                frame = bytearray(struct.pack(">2sBI", b"FL", 1, len(payload))) + payload
            case 2:
                frame = mutated(rng, frame)
            case _:
                pass
        stream += frame
    return bytes(stream)


def read(chunks: list[bytes]) -> tuple[list[Frame], bool]:
    """The frames, and whether a refusal ended them."""
    reader, found = FrameReader(), []
    for chunk in chunks:
        reader.feed(chunk)
        try:
            while (frame := reader.next_frame()) is not None:
                found.append(frame)
        except PeerProtocolError:
            return found, True
    return found, False


def complaint(rng: random.Random, stream: bytes) -> str | None:
    """What broke the invariant; None when it holds."""
    peaks = []
    # The interpreter's own tables grow now and then, but not twice in a row.
    for _ in range(2):
        tracemalloc.clear_traces()
        try:
            found, is_refused = read([stream])
        except Exception as exc:  # noqa: BLE001 - whatever it is, it is the finding
            return f"{type(exc).__name__}: {exc}"
        peaks.append(tracemalloc.get_traced_memory()[1])
        if peaks[-1] <= MEMORY_TIMES * len(stream) + MEMORY_MORE:
            break
    else:
        return f"took {peaks} bytes of memory for {len(stream)}"
    places = sorted(rng.randint(0, len(stream)) for _ in range(rng.randint(0, 9)))
    pieces = [stream[a:b] for a, b in zip([0, *places], [*places, len(stream)], strict=True)]
    if read(pieces) != (found, is_refused):
        return f"cut at {places}, it means something else"
    if read([frames.encode(frame) for frame in found]) != (found, False):
        return f"does not come back as it went: {found!r}"
    return None


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--seconds", type=float, default=60.0)
    parser.add_argument("--seed", type=int, default=random.SystemRandom().randrange(2**32))
    options = parser.parse_args()
    rng = random.Random(options.seed)
    runs = 0
    tracemalloc.start()
    end = time.monotonic() + options.seconds
    while time.monotonic() < end:
        stream = a_stream(rng)
        runs += 1
        if found := complaint(rng, stream):
            kept = Path(__file__).with_name(f"finding-{options.seed}.frames")
            kept.write_bytes(stream)
            print(f"seed {options.seed}, run {runs}: {found}\nkept as {kept}")
            return 1
    print(f"frames: {runs:,} inputs, seed {options.seed}: the invariant held")
    return 0


if __name__ == "__main__":
    sys.exit(main())
