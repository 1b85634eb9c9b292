"""Every maximum in the device protocol, with its reason.

The size of a body is not here: it follows from the model, and who reads the body knows it.
Decoding takes time and memory in proportion to the body, whatever is in it; the limits marked
"amplification" are what keeps that true, because a few bytes can ask for a large object.
"""

from __future__ import annotations

from typing import Final

# FlatBuffers offsets are 32 bits with a sign; the official verifier and builder stop here.
MAX_FLAT_BYTES: Final = 2**31 - 1

# The official verifier's defaults. The protocol's own tables nest 3 deep.
MAX_FLAT_DEPTH: Final = 64
MAX_FLAT_TABLES: Final = 1_000_000

# Root offset, a table's offset to its vtable, and the vtable's two sizes.
MIN_FLAT_BYTES: Final = 12

# Amplification: an empty map is 1 byte on the wire and some 100 in memory. The longest honest
# list has one entry per tensor; a 10-billion-parameter transformer has fewer than 1,000.
MAX_LIST_ITEMS: Final = 65_536

# Ids, names and reasons are short; certificates in PEM are the longest texts, some 2 KB each.
# An id is copied into every log line and key about its device, hence a limit at all.
MAX_TEXT_BYTES: Final = 65_536

# Key material, signatures, initial vectors: the longest is an RSA signature, 512 bytes.
MAX_BINARY_BYTES: Final = 65_536

# Integers are int32 in the schema, and stay so in msgpack: one message, two encodings.
MIN_INT: Final = -(2**31)
MAX_INT: Final = 2**31 - 1
MIN_ENUM: Final = -(2**7)
MAX_ENUM: Final = 2**7 - 1

# A float is float32 in the schema; a finite number beyond it would become infinite.
MAX_FLOAT: Final = (2 - 2**-23) * 2.0**127

# Samples one device may claim: the published server refuses more, and the bound on a sum of
# updates counts on it.
MAX_DATA_SIZE: Final = 65_535

# Dimensions one sign-based update may name. Published servers refuse more than 100, which some
# of their own settings make devices send; no legal setting comes near this.
MAX_SIGN_DIMENSIONS: Final = 4_096

# Numbers of evaluation data of one update that are kept to be scored: probabilities of clusters
# are some hundred, and the newest few thousand vectors of a job are in memory at a time.
MAX_EVALUATION_NUMBERS: Final = 4_096

# How long a request may be held open. Published devices give up reading after 3 times their
# connect timeout of 30 s or more, and were seen to accept 25 s.
MAX_HOLD_MS: Final = 25_000

# How far ahead a device may be told to come back: published devices sleep no longer than this.
MAX_RETRY_AFTER_MS: Final = 30 * 60 * 1000
