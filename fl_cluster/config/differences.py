"""What keys do here that they do not do in the original: the tables of `compatibility`.

`DIFFERENCES` is the one list of keys that do something else here, with the reason; the
command `fl-cluster migrate check` and the tables of docs/compatibility.md are made from it.
A key that is in no list does here what it does there.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import PurePath
from typing import Final

from fl_cluster.config.addresses import CacheKind, parse_cache_address
from fl_cluster.config.keys import KEYS
from fl_cluster.config.rules import Value
from fl_cluster.config.schema import (
    AggregationType,
    EncryptType,
    EvalType,
    NoiseKind,
    UploadCompression,
)
from fl_cluster.config.tables import Values

MAX_INT32 = 2**31 - 1
IPV4_AND_PORT = re.compile(r"[0-9.]+:[0-9]+")

UNUSED: Final[Mapping[str, str]] = {
    "distributed_cache.type": "the cache is always Redis",
    "distributed_cache.plugin_lib_path": "there are no cache plug-ins",
}
"""Key -> why it has no effect, here as there."""


@dataclass(frozen=True, slots=True)
class Use:
    """With which other settings a key that is read and checked has an effect."""

    when: str
    """In words, to go on from "only used"."""
    is_met: Callable[[Values], bool]


def _with(path: str, *words: Value) -> Callable[[Values], bool]:
    return lambda values: values[path] in words


def _may_use_tls(values: Values) -> bool:
    try:
        address = parse_cache_address(str(values["distributed_cache.address"]))
    except ValueError:
        return True
    kind = address.encrypted().kind if values["enable_ssl"] else address.kind
    return kind in (CacheKind.TLS, CacheKind.SENTINEL)


_ENCRYPT: Final = "encrypt.encrypt_type"
_AGGREGATION: Final = "aggregation.aggregation_type"
_LAYOUT: Final = "cluster.pw_mask_layout"
_PAIRWISE: Final = (EncryptType.PW_ENCRYPT, EncryptType.STABLE_PW_ENCRYPT)

_CACHE_TLS = Use("when Redis is spoken to by TLS", _may_use_tls)
_SIGNED = Use("when pki_verify is true", _with("client_verify.pki_verify", True))
_CENTRAL = Use("when noise is central", _with("privacy.noise", NoiseKind.CENTRAL))
_CHARGED = Use(
    "when noise is central or encrypt_type is DP_ENCRYPT",
    lambda values: (
        values["privacy.noise"] == NoiseKind.CENTRAL or values[_ENCRYPT] == EncryptType.DP_ENCRYPT
    ),
)

USES: Final[Mapping[str, Use]] = {
    "aggregation.iid_rate": Use(
        "when aggregation_type is FedProx", _with(_AGGREGATION, AggregationType.FED_PROX)
    ),
    "aggregation.total_client_num": Use(
        "when aggregation_type is Scaffold", _with(_AGGREGATION, AggregationType.SCAFFOLD)
    ),
    "distributed_cache.cacert_filename": _CACHE_TLS,
    "distributed_cache.capath": _CACHE_TLS,
    "distributed_cache.cert_filename": _CACHE_TLS,
    "distributed_cache.private_key_filename": _CACHE_TLS,
    "distributed_cache.server_name": _CACHE_TLS,
    "unsupervised.cluster_client_num": Use(
        "when eval_type is a score",
        lambda values: values["unsupervised.eval_type"] != EvalType.NOT_EVAL,
    ),
    "compression.upload_sparse_rate": Use(
        "when uploads are compressed",
        _with("compression.upload_compress_type", UploadCompression.DIFF_SPARSE_QUANT),
    ),
    "client_verify.root_first_ca_path": _SIGNED,
    "client_verify.root_second_ca_path": _SIGNED,
    "client_verify.equip_crl_path": _SIGNED,
    "client_verify.replay_attack_time_diff": _SIGNED,
    "privacy.clip_norm": _CENTRAL,
    "privacy.noise_multiplier": _CENTRAL,
    "privacy.epsilon_budget": _CHARGED,
    "privacy.delta": _CHARGED,
    "cluster.hold_ms": Use(
        "when encrypt_type is neither PW_ENCRYPT nor STABLE_PW_ENCRYPT",
        lambda values: values[_ENCRYPT] not in _PAIRWISE,
    ),
    "cluster.masked_hold_ms": Use(
        "when encrypt_type is PW_ENCRYPT or STABLE_PW_ENCRYPT", _with(_ENCRYPT, *_PAIRWISE)
    ),
    _LAYOUT: Use("when encrypt_type is PW_ENCRYPT", _with(_ENCRYPT, EncryptType.PW_ENCRYPT)),
}
"""Key -> when it is used; a key that is in no list always is."""


@dataclass(frozen=True, slots=True)
class Difference:
    """What a key does here that it does not do there."""

    why: str
    when: str = ""
    """For which values, in words; empty for all."""
    concerns: Callable[[Value], bool] = lambda _value: True


def _never(_value: Value) -> bool:
    """Of what the file does not show, or a refusal says by itself."""
    return False


def _is(word: str) -> Callable[[Value], bool]:
    return lambda value: value == word


def _is_given(value: Value) -> bool:
    return value != ""


def _is_no_whole_second(value: Value) -> bool:
    return isinstance(value, int) and value % 1000 != 0


def _is_long(value: Value) -> bool:
    return isinstance(value, int) and value > MAX_INT32


def _is_relative(value: Value) -> bool:
    return value != "" and not PurePath(str(value)).is_absolute()


def _is_pem(value: Value) -> bool:
    return str(value).lower().endswith((".pem", ".crt", ".cer"))


_WINDOW = Difference(
    "it ends at the millisecond; in the original after whole seconds, the rest cut off",
    "no whole seconds",
    _is_no_whole_second,
)
_INT32 = Difference(
    f"devices are told {MAX_INT32}, the largest number of the field", f"above {MAX_INT32}", _is_long
)
_INFINITE = Difference(
    "refused; the original takes it, and devices compute with infinity",
    "infinity, and what single precision cannot hold, such as 1e39",
    _never,
)
_ONE_JOB = Difference(
    "it goes by what the running job has, with a warning; in the original by its own file",
    "of a server that joins a job",
    _never,
)
_PEM = Difference("understood; the original takes PKCS#12 only", "a PEM file", _is_pem)
_FOLDER = Difference(
    "servers that scripts/run_server.py starts look for it in the folder in which the script was "
    "called; the original's script in logs/server_PORT",
    "a relative path",
    _is_relative,
)

DIFFERENCES: Final[Mapping[str, tuple[Difference, ...]]] = {
    "fl_name": (
        Difference(
            "refused, because the name is part of keys in Redis and of file names",
            "braces, slashes, characters that do not print, more than 160 bytes",
            _never,
        ),
    ),
    "fl_iteration_num": (_INT32,),
    "server_mode": (_ONE_JOB,),
    "aggregation.aggregation_type": (_ONE_JOB,),
    "aggregation.iid_rate": (_ONE_JOB,),
    "aggregation.total_client_num": (_ONE_JOB,),
    "distributed_cache.address": (
        Difference(
            "understood; the original takes ip:port only",
            "names, IPv6, redis://, rediss://, unix:, sentinel://, embedded",
            lambda value: IPV4_AND_PORT.fullmatch(str(value)) is None,
        ),
    ),
    "ssl.server_cert_path": (_PEM,),
    "ssl.client_cert_path": (_PEM,),
    "ssl.crl_path": (
        Difference(
            "certificates that the list names are refused, and so is a list that cannot be read; "
            "the original never looks at the serial numbers",
            "any file",
            _is_given,
        ),
    ),
    "client_verify.equip_crl_path": (
        Difference(
            "devices whose certificates the list names are refused; the original never looks at "
            "the serial numbers",
            "any file",
            _is_given,
        ),
    ),
    "round.start_fl_job_time_window": (_WINDOW,),
    "round.update_model_time_window": (_WINDOW,),
    "round.global_iteration_time_window": (_WINDOW,),
    "summary.metrics_file": (
        Difference(
            "the loss is divided by the samples of exactly those whose losses were added up; the "
            "original divides by another number when a round failed or tensors were left out"
        ),
        _FOLDER,
    ),
    "summary.failure_event_file": (_FOLDER,),
    "summary.data_rate_dir": (
        Difference(
            "the folder is made when it is missing, and a server that ends does not wait for the "
            "minute to be over",
            "any folder",
            _is_given,
        ),
        _FOLDER,
    ),
    "unsupervised.cluster_client_num": (_ONE_JOB,),
    "unsupervised.eval_type": (
        Difference(
            "scores need no number of processors, groups may have any numbers, vectors of another "
            "length than most or of more than 4,096 numbers are left out, and the silhouette of "
            "more vectors than can be compared in about a minute is 0",
            "any score",
            lambda value: value != EvalType.NOT_EVAL,
        ),
        _ONE_JOB,
    ),
    "encrypt.encrypt_type": (
        Difference(
            "masks are taken off where genuine devices put them, anew in each tensor; a cohort "
            f"whose masks run on from tensor to tensor needs {_LAYOUT}: running, and the wrong "
            "layout spoils every mean; the original takes masks off as if they ran on",
            "PW_ENCRYPT",
            _is(EncryptType.PW_ENCRYPT),
        ),
        Difference(
            "keys go to as many as have to report, and only those may; in the original masks stay "
            "in the sum unless all who exchanged keys report",
            "STABLE_PW_ENCRYPT",
            _is(EncryptType.STABLE_PW_ENCRYPT),
        ),
        Difference(
            "an update may name up to 4,096 elements, and one that names them out of order is "
            "refused; the original takes 100, and loses those out of order without a word",
            "SIGNDS",
            _is(EncryptType.SIGNDS),
        ),
        Difference(
            "understood; the original does not know the word",
            "SECURE_AGGREGATION",
            _is(EncryptType.SECURE_AGGREGATION),
        ),
    ),
    "encrypt.pw_encrypt.cipher_time_window": (_WINDOW,),
    "encrypt.pw_encrypt.reconstruct_secrets_threshold": (
        Difference(
            "refused, because masks could never be taken off; in the original no round ends well",
            "not below the number of updates that end a round",
            _never,
        ),
    ),
    "encrypt.dp_encrypt.dp_eps": (_INFINITE,),
    "encrypt.dp_encrypt.dp_norm_clip": (_INFINITE,),
    "encrypt.signds.sign_global_lr": (_INFINITE,),
    "compression.upload_compress_type": (
        Difference(
            "an update with more values than its mask has places, or with another number of "
            "chunks than of names, is refused; the original passes over what is too much",
            "DIFF_SPARSE_QUANT",
            _is(UploadCompression.DIFF_SPARSE_QUANT),
        ),
    ),
    "client.client_epoch_num": (_INT32,),
    "client.client_batch_size": (_INT32,),
    "client.client_learning_rate": (_INFINITE,),
    "client.connection_num": (
        Difference(
            "bounds the connections of devices: the oldest idle one gives way, and who comes "
            "while all are busy gets HTTP 503; in the original it bounds those between servers"
        ),
    ),
}
"""Key -> what it does here that it does not do there."""

PASSED_OVER: Final = "the original passes it over"
"""All there is to say of most keys that are new."""

_NEW_SECTIONS = ("cluster.", "privacy.", "encrypt.secure_aggregation.")

NEW: Final[Mapping[str, str]] = {
    **{path: PASSED_OVER for path in KEYS if path.startswith(_NEW_SECTIONS)},
    "distributed_cache.username": PASSED_OVER,
    "distributed_cache.password": PASSED_OVER,
    "ssl.server_key_path": PASSED_OVER,
    "ssl.client_key_path": PASSED_OVER,
    _LAYOUT: (
        "restart is the layout of genuine devices; a cohort whose masks run on from tensor to "
        "tensor needs running, and the wrong value spoils every mean"
    ),
}
"""Key that the original does not know -> what is to be said of it."""
