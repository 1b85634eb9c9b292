"""Invariant: any bytes, cut anywhere, are the same frames and then a PeerProtocolError or silence.

Every frame that comes out encodes and comes back; memory stays within a hundred times the
input, and nothing else ever comes out.  The first byte of an input says what the others are: a
stream, or, when it is odd, the payload of one frame whose header tells its length.
`engine.campaign` has the command line.
"""

from __future__ import annotations

import random
import struct
import sys
import zlib
from collections.abc import Iterator

import msgpack
from engine.campaign import main
from engine.target import Broken, Target, within

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
# First bytes of every msgpack family, lengths that promise more than there is, and deep nests.
PIECES = [bytes([first]) for first in (*range(0x7F, 0xA2), *range(0xBF, 0x100))]
PIECES += [b"\xdd\xff\xff\xff\xff", b"\xdf\xff\xff\xff\xff", b"\xc6\xff\xff\xff\xff"]
PIECES += [b"\xa4kind", b"\xa7figures", b"\xa6serial", b"\xd6\xff\0\0\0\0", b"\xc7\x0c\xff"]
PIECES += [b"\x91" * 40, b"\x81\xa1a" * 20, b"\x90" * 40, b"FL\x01", b"FL\x02"]
HEADER_BYTES = 7
MOST_CUTS = 9
MEMORY_TIMES, MEMORY_MORE = 100, 100_000


def seeds() -> Iterator[bytes]:
    """Each kind of frame as a stream and as a payload, all of them in one stream, deep nests."""
    for frame in HONEST:
        yield b"\0" + frames.encode(frame)
        yield b"\1" + frames.encode(frame)[HEADER_BYTES:]
    yield b"\0" + b"".join(map(frames.encode, HONEST))
    yield b"\1" + msgpack.packb({"kind": "beat", "figures": {}})[:-1] + b"\x91" * 600
    yield b"\1" + msgpack.packb({"kind": "beat", "figures": {}})[:-1] + b"\x81\xa1a" * 300


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


def check(data: bytes) -> None:
    stream = data[1:]
    if data and data[0] & 1:
        stream = struct.pack(">2sBI", b"FL", 1, len(stream)) + stream
    found, is_refused = within(MEMORY_TIMES * len(stream) + MEMORY_MORE, lambda: read([stream]))
    rng = random.Random(zlib.crc32(data))
    places = sorted(rng.randint(0, len(stream)) for _ in range(rng.randint(1, MOST_CUTS)))
    pieces = [stream[a:b] for a, b in zip([0, *places], [*places, len(stream)], strict=True)]
    if read(pieces) != (found, is_refused):
        raise Broken(f"cut at {places}, it means something else")
    if read([frames.encode(frame) for frame in found]) != (found, False):
        raise Broken(f"does not come back as it went: {found!r}")


TARGET = Target(name="frames", check=check, seeds=seeds, dictionary=tuple(PIECES))

if __name__ == "__main__":
    sys.exit(main(TARGET))
