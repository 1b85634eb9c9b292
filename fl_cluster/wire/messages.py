"""The messages of the device protocol: one NamedTuple per table, one IntEnum per enum.

Generated from fl_job.fbs by tools/generate_messages.py; a test fails when it is out of date.

Fields have their wire names and stand in slot order; those after the comment `msgpack only`
have no slot.  None is absent, where absent can be told from a value.  Enum fields are plain
ints: a peer may send a number that no member has.  The arrays that decoding puts here are
read-only views of the body it was given.
"""

from __future__ import annotations

from collections.abc import Mapping
from enum import IntEnum
from types import MappingProxyType
from typing import Final, NamedTuple

from fl_cluster.wire.schema import AnyMessage, Field, Floats, Int8s, Kind


class ResponseCode(IntEnum):
    """The outcome of a request, as it stands in `retcode`."""

    SUCCEED = 200
    SucNotReady = 201
    OutOfTime = 300
    RequestError = 400
    SystemError = 500


class CompressType(IntEnum):
    """How weights travel."""

    NO_COMPRESS = 0
    DIFF_SPARSE_QUANT = 1
    QUANT = 2


class UnsupervisedEvalFlg(IntEnum):
    """Whether devices are asked for unsupervised evaluation data."""

    EVAL_DISABLE = 0
    EVAL_ENABLE = 1


class AggregationType(IntEnum):
    """How updates become one model; servers never send it."""

    FedAvg = 0
    FedProx = 1
    Scaffold = 2
    FedNova = 3
    qffl = 4


class Metrics(IntEnum):
    """What a device may be asked to measure; servers never ask."""

    accuracy = 0
    precision = 1
    recall = 2
    AUC = 3
    f1 = 4
    fbeta = 5


class EarlyStopType(IntEnum):
    """When a device may stop its local training early; servers never say."""

    loss_diff = 0
    loss_abs = 1
    weight_diff = 2


class FeatureMap(NamedTuple):
    """One tensor: its name, and its values flattened in C order."""

    weight_fullname: str | None = None
    data: Floats | None = None
    # msgpack only
    shape: tuple[int, ...] | None = None


class CompressFeatureMap(NamedTuple):
    """One tensor in 8 bits an element."""

    weight_fullname: str | None = None
    compress_data: Int8s | None = None
    min_val: float = 0.0
    max_val: float = 0.0
    # msgpack only
    shape: tuple[int, ...] | None = None


class UnsupervisedEvalItem(NamedTuple):
    """Evaluation data of one batch."""

    eval_name: str | None = None
    eval_data: Floats | None = None


class UnsupervisedEvalItems(NamedTuple):
    """Evaluation data of one update."""

    eval_items: tuple[UnsupervisedEvalItem, ...] | None = None


class Aggregation(NamedTuple):
    """How the server aggregates; servers never send it."""

    type: int = 0
    weights: Floats | None = None
    iid_rate: float = 0.0
    total_client_num: int = 0


class EarlyStop(NamedTuple):
    """When to stop local training early; servers never send it."""

    early_stop_type: int = 0
    weight: float = 0.0
    rounds: int = 0


class PWParams(NamedTuple):
    """The public numbers of pairwise masking."""

    t: int = 0
    p: bytes | None = None
    g: int = 0
    prime: bytes | None = None


class DPParams(NamedTuple):
    """The numbers of differential privacy."""

    dp_eps: float = 0.0
    dp_delta: float = 0.0
    dp_norm_clip: float = 0.0


class DSParams(NamedTuple):
    """The numbers of sign-based dimension selection."""

    sign_k: float = 0.0
    sign_eps: float = 0.0
    sign_thr_ratio: float = 0.0
    sign_global_lr: float = 0.0
    sign_dim_out: int = 0


class CipherPublicParams(NamedTuple):
    """How updates are protected, and with which numbers."""

    encrypt_type: str | None = None
    pw_params: PWParams | None = None
    dp_params: DPParams | None = None
    ds_params: DSParams | None = None


class FLPlan(NamedTuple):
    """What a device has to do in a round."""

    server_mode: str | None = None
    fl_name: str | None = None
    iterations: int = 0
    epochs: int = 0
    early_stop: EarlyStop | None = None
    mini_batch: int = 0
    shuffle: bool = False
    lr: float = 0.0
    aggregation: Aggregation | None = None
    metrics: tuple[int, ...] | None = None
    cipher: CipherPublicParams | None = None


class RequestFLJob(NamedTuple):
    """startFLJob, request: a device checks in."""

    fl_name: str | None = None
    fl_id: str | None = None
    iteration: int = 0
    data_size: int = 0
    timestamp: str | None = None
    sign_data: bytes | None = None
    key_attestation: str | None = None
    equip_cert: str | None = None
    equip_ca_cert: str | None = None
    root_cert: str | None = None
    download_compress_types: tuple[int, ...] | None = None
    eval_data_size: int = 0
    # msgpack only
    model_digest: str | None = None


class SecureTensor(NamedTuple):
    """One tensor of a masked update: how many terms, and the power of two that scales them."""

    weight_fullname: str | None = None
    elements: int = 0
    exponent: int = 0


class SecureRound(NamedTuple):
    """Inside startFLJob's answer: the masked round that the device is admitted to."""

    instance: str | None = None
    attempt: int = 0
    least_devices: int = 0
    corrupt: float = 0.0
    dropout: float = 0.0
    safety_bits: int = 0
    failure_bits: int = 0
    cohort_size: int = 0
    step_window_ms: int = 0
    tensors: tuple[SecureTensor, ...] | None = None
    terms: bytes | None = None


class ResponseFLJob(NamedTuple):
    """startFLJob, answer: the plan, and the model to start from."""

    retcode: int = 0
    reason: str | None = None
    iteration: int = 0
    is_selected: bool = False
    next_req_time: str | None = None
    fl_plan_config: FLPlan | None = None
    feature_map: tuple[FeatureMap, ...] | None = None
    timestamp: str | None = None
    upload_compress_type: int = 0
    upload_sparse_rate: float = 0.0
    download_compress_type: int = 0
    compress_feature_map: tuple[CompressFeatureMap, ...] | None = None
    unsupervised_eval_flg: int = 0
    # msgpack only
    verdict: str | None = None
    retry_after_ms: int | None = None
    model_round: int | None = None
    model_unchanged: bool = False
    model_digest: str | None = None
    secure: SecureRound | None = None


class RequestUpdateModel(NamedTuple):
    """updateModel, request: a device reports its update."""

    fl_name: str | None = None
    fl_id: str | None = None
    iteration: int = 0
    feature_map: tuple[FeatureMap, ...] | None = None
    timestamp: str | None = None
    signature: bytes | None = None
    upload_loss: float = 0.0
    sign: int = 0
    index_array: tuple[int, ...] | None = None
    compress_feature_map: tuple[CompressFeatureMap, ...] | None = None
    upload_compress_type: int = 0
    upload_sparse_rate: float = 0.0
    name_vec: tuple[str, ...] | None = None
    upload_accuracy: float = 0.0
    unsupervised_eval_items: UnsupervisedEvalItems | None = None
    # msgpack only
    plain_weights: bool = False
    masked_terms: Int8s | None = None
    masked_tags: Int8s | None = None


class Receipt(NamedTuple):
    """Proof that one update was counted."""

    round: int = 0
    digest: str | None = None
    position: int = 0


class ResponseUpdateModel(NamedTuple):
    """updateModel, answer."""

    retcode: int = 0
    reason: str | None = None
    feature_map: tuple[FeatureMap, ...] | None = None
    next_req_time: str | None = None
    timestamp: str | None = None
    # msgpack only
    verdict: str | None = None
    retry_after_ms: int | None = None
    receipt: Receipt | None = None


class RequestGetModel(NamedTuple):
    """getModel, request."""

    fl_name: str | None = None
    iteration: int = 0
    timestamp: str | None = None
    download_compress_types: tuple[int, ...] | None = None
    # msgpack only
    hold_ms: int | None = None


class ResponseGetModel(NamedTuple):
    """getModel, answer; `timestamp` is when to come back."""

    retcode: int = 0
    reason: str | None = None
    iteration: int = 0
    feature_map: tuple[FeatureMap, ...] | None = None
    timestamp: str | None = None
    download_compress_type: int = 0
    compress_feature_map: tuple[CompressFeatureMap, ...] | None = None
    # msgpack only
    verdict: str | None = None
    retry_after_ms: int | None = None
    model_round: int | None = None
    model_digest: str | None = None


class RequestPullWeight(NamedTuple):
    """pullWeight, request: a worker asks for aggregated weights by name."""

    iteration: int = 0
    weight_names: tuple[str, ...] | None = None


class ResponsePullWeight(NamedTuple):
    """pullWeight, answer."""

    retcode: int = 0
    reason: str | None = None
    iteration: int = 0
    feature_map: tuple[FeatureMap, ...] | None = None
    # msgpack only
    verdict: str | None = None
    retry_after_ms: int | None = None


class RequestPushWeight(NamedTuple):
    """pushWeight, request: a worker hands in the weights it retrained."""

    iteration: int = 0
    feature_map: tuple[FeatureMap, ...] | None = None


class ResponsePushWeight(NamedTuple):
    """pushWeight, answer."""

    retcode: int = 0
    reason: str | None = None
    iteration: int = 0
    # msgpack only
    verdict: str | None = None
    retry_after_ms: int | None = None


class RequestPushMetrics(NamedTuple):
    """pushMetrics, request: a worker reports how good its model is."""

    loss: float = 0.0
    accuracy: float = 0.0


class ResponsePushMetrics(NamedTuple):
    """pushMetrics, answer."""

    retcode: int = 0
    # msgpack only
    verdict: str | None = None
    retry_after_ms: int | None = None


class FeatureMapList(NamedTuple):
    """Declared by the published schema and used by nobody."""

    feature_map: tuple[FeatureMap, ...] | None = None


class RequestAsyncUpdateModel(NamedTuple):
    """Declared by the published schema and used by nobody."""

    fl_name: str | None = None
    fl_id: str | None = None
    iteration: int = 0
    data_size: int = 0
    feature_map: tuple[FeatureMap, ...] | None = None


class ResponseAsyncUpdateModel(NamedTuple):
    """Declared by the published schema and used by nobody."""

    retcode: int = 0
    reason: str | None = None
    iteration: int = 0


class RequestAsyncGetModel(NamedTuple):
    """Declared by the published schema and used by nobody."""

    fl_name: str | None = None
    iteration: int = 0


class ResponseAsyncGetModel(NamedTuple):
    """Declared by the published schema and used by nobody."""

    retcode: int = 0
    reason: str | None = None
    iteration: int = 0
    feature_map: tuple[FeatureMap, ...] | None = None


class ClientPublicKeys(NamedTuple):
    """The public keys of one device, as the server hands them to the others."""

    fl_id: str | None = None
    c_pk: bytes | None = None
    s_pk: bytes | None = None
    pw_iv: bytes | None = None
    pw_salt: bytes | None = None
    timestamp: str | None = None
    iteration: int = 0
    signature: bytes | None = None
    certificate_chain: tuple[str, ...] | None = None


class ClientShare(NamedTuple):
    """One share of a secret; `fl_id` is the other party."""

    fl_id: str | None = None
    share: bytes | None = None
    index: int = 0  # type: ignore[assignment]


class RequestExchangeKeys(NamedTuple):
    """exchangeKeys, request: a device deposits its public keys."""

    fl_id: str | None = None
    c_pk: bytes | None = None
    s_pk: bytes | None = None
    iteration: int = 0
    timestamp: str | None = None
    ind_iv: bytes | None = None
    pw_iv: bytes | None = None
    pw_salt: bytes | None = None
    signature: bytes | None = None
    certificate_chain: tuple[str, ...] | None = None


class ResponseExchangeKeys(NamedTuple):
    """exchangeKeys, answer."""

    retcode: int = 0
    reason: str | None = None
    next_req_time: str | None = None
    iteration: int = 0
    # msgpack only
    verdict: str | None = None
    retry_after_ms: int | None = None


class GetExchangeKeys(NamedTuple):
    """getKeys, request: a device asks for the keys of the others."""

    fl_id: str | None = None
    iteration: int = 0
    timestamp: str | None = None
    signature: bytes | None = None


class ReturnExchangeKeys(NamedTuple):
    """getKeys, answer; it has no reason."""

    retcode: int = 0
    iteration: int = 0
    remote_publickeys: tuple[ClientPublicKeys, ...] | None = None
    next_req_time: str | None = None
    # msgpack only
    verdict: str | None = None
    retry_after_ms: int | None = None


class RequestShareSecrets(NamedTuple):
    """shareSecrets, request: a device deposits the encrypted shares of its secrets."""

    fl_id: str | None = None
    encrypted_shares: tuple[ClientShare, ...] | None = None
    iteration: int = 0
    timestamp: str | None = None
    signature: bytes | None = None


class ResponseShareSecrets(NamedTuple):
    """shareSecrets, answer."""

    retcode: int = 0
    reason: str | None = None
    next_req_time: str | None = None
    iteration: int = 0
    # msgpack only
    verdict: str | None = None
    retry_after_ms: int | None = None


class GetShareSecrets(NamedTuple):
    """getSecrets, request: a device asks for the shares addressed to it."""

    fl_id: str | None = None
    iteration: int = 0
    timestamp: str | None = None
    signature: bytes | None = None


class ReturnShareSecrets(NamedTuple):
    """getSecrets, answer; it has no reason."""

    retcode: int = 0
    iteration: int = 0
    encrypted_shares: tuple[ClientShare, ...] | None = None
    next_req_time: str | None = None
    # msgpack only
    verdict: str | None = None
    retry_after_ms: int | None = None


class GetClientList(NamedTuple):
    """getClientList, request: a device asks whose updates were counted."""

    fl_id: str | None = None
    iteration: int = 0
    timestamp: str | None = None
    signature: bytes | None = None


class ReturnClientList(NamedTuple):
    """getClientList, answer."""

    retcode: int = 0
    reason: str | None = None
    clients: tuple[str, ...] | None = None
    iteration: int = 0
    next_req_time: str | None = None
    # msgpack only
    verdict: str | None = None
    retry_after_ms: int | None = None


class ClientListSign(NamedTuple):
    """One device's signature under the list of counted devices."""

    fl_id: str | None = None
    signature: bytes | None = None


class SendClientListSign(NamedTuple):
    """pushListSign, request: a device signs the list it received."""

    fl_id: str | None = None
    iteration: int = 0
    timestamp: str | None = None
    signature: bytes | None = None
    req_signature: bytes | None = None


class ResponseClientListSign(NamedTuple):
    """pushListSign, answer."""

    retcode: int = 0
    reason: str | None = None
    iteration: int = 0
    next_req_time: str | None = None
    # msgpack only
    verdict: str | None = None
    retry_after_ms: int | None = None


class RequestAllClientListSign(NamedTuple):
    """getListSign, request: a device asks for the signatures of the others."""

    fl_id: str | None = None
    iteration: int = 0
    timestamp: str | None = None
    signature: bytes | None = None


class ReturnAllClientListSign(NamedTuple):
    """getListSign, answer."""

    retcode: int = 0
    reason: str | None = None
    client_list_sign: tuple[ClientListSign, ...] | None = None
    iteration: int = 0
    next_req_time: str | None = None
    # msgpack only
    verdict: str | None = None
    retry_after_ms: int | None = None


class SendReconstructSecret(NamedTuple):
    """reconstructSecrets, request: a device hands in the shares that unmask the sum."""

    fl_id: str | None = None
    reconstruct_secret_shares: tuple[ClientShare, ...] | None = None
    iteration: int = 0
    timestamp: str | None = None
    signature: bytes | None = None


class ReconstructSecret(NamedTuple):
    """reconstructSecrets, answer."""

    retcode: int = 0
    reason: str | None = None
    iteration: int = 0
    next_req_time: str | None = None
    # msgpack only
    verdict: str | None = None
    retry_after_ms: int | None = None


class RequestSecureOffer(NamedTuple):
    """secure/offer, request: a device offers two fresh public keys."""

    fl_id: str | None = None
    iteration: int = 0
    attempt: int = 0
    share_key: bytes | None = None
    mask_key: bytes | None = None
    signature: bytes | None = None


class RequestSecureRead(NamedTuple):
    """secure/roster, delivery, survivors and tags, request: a device asks what the others said."""

    fl_id: str | None = None
    iteration: int = 0
    attempt: int = 0
    hold_ms: int | None = None


class SecureOffer(NamedTuple):
    """One neighbour's offer, and where it stands in the roster."""

    index: int = 0  # type: ignore[assignment]
    fl_id: str | None = None
    share_key: bytes | None = None
    mask_key: bytes | None = None
    signature: bytes | None = None


class ResponseSecureRoster(NamedTuple):
    """secure/roster, answer: who takes part."""

    retcode: int = 0
    reason: str | None = None
    iteration: int = 0
    leaves: Int8s | None = None
    offers: tuple[SecureOffer, ...] | None = None
    verdict: str | None = None
    retry_after_ms: int | None = None


class RequestSecureShare(NamedTuple):
    """secure/share, request: a device hands out its sealed shares."""

    fl_id: str | None = None
    iteration: int = 0
    attempt: int = 0
    commitment: bytes | None = None
    sealed: Int8s | None = None


class ResponseSecureDelivery(NamedTuple):
    """secure/delivery, answer: what is sealed for the device."""

    retcode: int = 0
    reason: str | None = None
    iteration: int = 0
    sharers: Int8s | None = None
    sealed: Int8s | None = None
    verdict: str | None = None
    retry_after_ms: int | None = None


class ResponseSecureSurvivors(NamedTuple):
    """secure/survivors, answer: whose updates are in the sum."""

    retcode: int = 0
    reason: str | None = None
    iteration: int = 0
    counted: Int8s | None = None
    tags: Int8s | None = None
    verdict: str | None = None
    retry_after_ms: int | None = None


class RequestSecureConfirm(NamedTuple):
    """secure/confirm, request: a device confirms to its neighbours the list that it was given."""

    fl_id: str | None = None
    iteration: int = 0
    attempt: int = 0
    tags: Int8s | None = None


class ResponseSecureTags(NamedTuple):
    """secure/tags, answer: what the neighbours confirmed."""

    retcode: int = 0
    reason: str | None = None
    iteration: int = 0
    senders: Int8s | None = None
    tags: Int8s | None = None
    verdict: str | None = None
    retry_after_ms: int | None = None


class RequestSecureReveal(NamedTuple):
    """secure/reveal, request: a device gives the shares that take the masks off the sum."""

    fl_id: str | None = None
    iteration: int = 0
    attempt: int = 0
    owners: Int8s | None = None
    shares: Int8s | None = None


class ResponseSecureStep(NamedTuple):
    """secure/offer, share, confirm and reveal, answer."""

    retcode: int = 0
    reason: str | None = None
    iteration: int = 0
    verdict: str | None = None
    retry_after_ms: int | None = None


SCHEMA: Final[Mapping[type[AnyMessage], tuple[Field, ...]]] = MappingProxyType(
    {
        FeatureMap: (
            Field("weight_fullname", Kind.STRING, 0),
            Field("data", Kind.FLOATS, 1),
            Field("shape", Kind.INTS, None),
        ),
        CompressFeatureMap: (
            Field("weight_fullname", Kind.STRING, 0),
            Field("compress_data", Kind.INT8S, 1),
            Field("min_val", Kind.FLOAT, 2, 0.0),
            Field("max_val", Kind.FLOAT, 3, 0.0),
            Field("shape", Kind.INTS, None),
        ),
        UnsupervisedEvalItem: (
            Field("eval_name", Kind.STRING, 0),
            Field("eval_data", Kind.FLOATS, 1),
        ),
        UnsupervisedEvalItems: (Field("eval_items", Kind.TABLES, 0, None, UnsupervisedEvalItem),),
        Aggregation: (
            Field("type", Kind.ENUM, 0, 0),
            Field("weights", Kind.FLOATS, 1),
            Field("iid_rate", Kind.FLOAT, 2, 0.0),
            Field("total_client_num", Kind.INT, 3, 0),
        ),
        EarlyStop: (
            Field("early_stop_type", Kind.ENUM, 0, 0),
            Field("weight", Kind.FLOAT, 1, 0.0),
            Field("rounds", Kind.INT, 2, 0),
        ),
        PWParams: (
            Field("t", Kind.INT, 0, 0),
            Field("p", Kind.BYTES, 1),
            Field("g", Kind.INT, 2, 0),
            Field("prime", Kind.BYTES, 3),
        ),
        DPParams: (
            Field("dp_eps", Kind.FLOAT, 0, 0.0),
            Field("dp_delta", Kind.FLOAT, 1, 0.0),
            Field("dp_norm_clip", Kind.FLOAT, 2, 0.0),
        ),
        DSParams: (
            Field("sign_k", Kind.FLOAT, 0, 0.0),
            Field("sign_eps", Kind.FLOAT, 1, 0.0),
            Field("sign_thr_ratio", Kind.FLOAT, 2, 0.0),
            Field("sign_global_lr", Kind.FLOAT, 3, 0.0),
            Field("sign_dim_out", Kind.INT, 4, 0),
        ),
        CipherPublicParams: (
            Field("encrypt_type", Kind.STRING, 0),
            Field("pw_params", Kind.TABLE, 1, None, PWParams),
            Field("dp_params", Kind.TABLE, 2, None, DPParams),
            Field("ds_params", Kind.TABLE, 3, None, DSParams),
        ),
        FLPlan: (
            Field("server_mode", Kind.STRING, 0),
            Field("fl_name", Kind.STRING, 1),
            Field("iterations", Kind.INT, 2, 0),
            Field("epochs", Kind.INT, 3, 0),
            Field("early_stop", Kind.TABLE, 4, None, EarlyStop),
            Field("mini_batch", Kind.INT, 5, 0),
            Field("shuffle", Kind.BOOL, 6, False),
            Field("lr", Kind.FLOAT, 7, 0.0),
            Field("aggregation", Kind.TABLE, 8, None, Aggregation),
            Field("metrics", Kind.ENUMS, 9),
            Field("cipher", Kind.TABLE, 10, None, CipherPublicParams),
        ),
        RequestFLJob: (
            Field("fl_name", Kind.STRING, 0),
            Field("fl_id", Kind.STRING, 1),
            Field("iteration", Kind.INT, 2, 0),
            Field("data_size", Kind.INT, 3, 0),
            Field("timestamp", Kind.STRING, 4),
            Field("sign_data", Kind.BYTES, 5),
            Field("key_attestation", Kind.STRING, 6),
            Field("equip_cert", Kind.STRING, 7),
            Field("equip_ca_cert", Kind.STRING, 8),
            Field("root_cert", Kind.STRING, 9),
            Field("download_compress_types", Kind.ENUMS, 10),
            Field("eval_data_size", Kind.INT, 11, 0),
            Field("model_digest", Kind.STRING, None),
        ),
        SecureTensor: (
            Field("weight_fullname", Kind.STRING, None),
            Field("elements", Kind.INT, None, 0),
            Field("exponent", Kind.INT, None, 0),
        ),
        SecureRound: (
            Field("instance", Kind.STRING, None),
            Field("attempt", Kind.INT, None, 0),
            Field("least_devices", Kind.INT, None, 0),
            Field("corrupt", Kind.FLOAT, None, 0.0),
            Field("dropout", Kind.FLOAT, None, 0.0),
            Field("safety_bits", Kind.INT, None, 0),
            Field("failure_bits", Kind.INT, None, 0),
            Field("cohort_size", Kind.INT, None, 0),
            Field("step_window_ms", Kind.INT, None, 0),
            Field("tensors", Kind.TABLES, None, None, SecureTensor),
            Field("terms", Kind.BYTES, None),
        ),
        ResponseFLJob: (
            Field("retcode", Kind.INT, 0, 0),
            Field("reason", Kind.STRING, 1),
            Field("iteration", Kind.INT, 2, 0),
            Field("is_selected", Kind.BOOL, 3, False),
            Field("next_req_time", Kind.STRING, 4),
            Field("fl_plan_config", Kind.TABLE, 5, None, FLPlan),
            Field("feature_map", Kind.TABLES, 6, None, FeatureMap),
            Field("timestamp", Kind.STRING, 7),
            Field("upload_compress_type", Kind.ENUM, 8, 0),
            Field("upload_sparse_rate", Kind.FLOAT, 9, 0.0),
            Field("download_compress_type", Kind.ENUM, 10, 0),
            Field("compress_feature_map", Kind.TABLES, 11, None, CompressFeatureMap),
            Field("unsupervised_eval_flg", Kind.ENUM, 12, 0),
            Field("verdict", Kind.STRING, None),
            Field("retry_after_ms", Kind.INT, None),
            Field("model_round", Kind.INT, None),
            Field("model_unchanged", Kind.BOOL, None, False),
            Field("model_digest", Kind.STRING, None),
            Field("secure", Kind.TABLE, None, None, SecureRound),
        ),
        RequestUpdateModel: (
            Field("fl_name", Kind.STRING, 0),
            Field("fl_id", Kind.STRING, 1),
            Field("iteration", Kind.INT, 2, 0),
            Field("feature_map", Kind.TABLES, 3, None, FeatureMap),
            Field("timestamp", Kind.STRING, 4),
            Field("signature", Kind.BYTES, 5),
            Field("upload_loss", Kind.FLOAT, 6, 0.0),
            Field("sign", Kind.INT, 7, 0),
            Field("index_array", Kind.INTS, 8),
            Field("compress_feature_map", Kind.TABLES, 9, None, CompressFeatureMap),
            Field("upload_compress_type", Kind.ENUM, 10, 0),
            Field("upload_sparse_rate", Kind.FLOAT, 11, 0.0),
            Field("name_vec", Kind.STRINGS, 12),
            Field("upload_accuracy", Kind.FLOAT, 13, 0.0),
            Field("unsupervised_eval_items", Kind.TABLE, 14, None, UnsupervisedEvalItems),
            Field("plain_weights", Kind.BOOL, None, False),
            Field("masked_terms", Kind.INT8S, None),
            Field("masked_tags", Kind.INT8S, None),
        ),
        Receipt: (
            Field("round", Kind.INT, None, 0),
            Field("digest", Kind.STRING, None),
            Field("position", Kind.INT, None, 0),
        ),
        ResponseUpdateModel: (
            Field("retcode", Kind.INT, 0, 0),
            Field("reason", Kind.STRING, 1),
            Field("feature_map", Kind.TABLES, 2, None, FeatureMap),
            Field("next_req_time", Kind.STRING, 3),
            Field("timestamp", Kind.STRING, 4),
            Field("verdict", Kind.STRING, None),
            Field("retry_after_ms", Kind.INT, None),
            Field("receipt", Kind.TABLE, None, None, Receipt),
        ),
        RequestGetModel: (
            Field("fl_name", Kind.STRING, 0),
            Field("iteration", Kind.INT, 1, 0),
            Field("timestamp", Kind.STRING, 2),
            Field("download_compress_types", Kind.ENUMS, 3),
            Field("hold_ms", Kind.INT, None),
        ),
        ResponseGetModel: (
            Field("retcode", Kind.INT, 0, 0),
            Field("reason", Kind.STRING, 1),
            Field("iteration", Kind.INT, 2, 0),
            Field("feature_map", Kind.TABLES, 3, None, FeatureMap),
            Field("timestamp", Kind.STRING, 4),
            Field("download_compress_type", Kind.ENUM, 5, 0),
            Field("compress_feature_map", Kind.TABLES, 6, None, CompressFeatureMap),
            Field("verdict", Kind.STRING, None),
            Field("retry_after_ms", Kind.INT, None),
            Field("model_round", Kind.INT, None),
            Field("model_digest", Kind.STRING, None),
        ),
        RequestPullWeight: (
            Field("iteration", Kind.INT, 0, 0),
            Field("weight_names", Kind.STRINGS, 1),
        ),
        ResponsePullWeight: (
            Field("retcode", Kind.INT, 0, 0),
            Field("reason", Kind.STRING, 1),
            Field("iteration", Kind.INT, 2, 0),
            Field("feature_map", Kind.TABLES, 3, None, FeatureMap),
            Field("verdict", Kind.STRING, None),
            Field("retry_after_ms", Kind.INT, None),
        ),
        RequestPushWeight: (
            Field("iteration", Kind.INT, 0, 0),
            Field("feature_map", Kind.TABLES, 1, None, FeatureMap),
        ),
        ResponsePushWeight: (
            Field("retcode", Kind.INT, 0, 0),
            Field("reason", Kind.STRING, 1),
            Field("iteration", Kind.INT, 2, 0),
            Field("verdict", Kind.STRING, None),
            Field("retry_after_ms", Kind.INT, None),
        ),
        RequestPushMetrics: (
            Field("loss", Kind.FLOAT, 0, 0.0),
            Field("accuracy", Kind.FLOAT, 1, 0.0),
        ),
        ResponsePushMetrics: (
            Field("retcode", Kind.INT, 0, 0),
            Field("verdict", Kind.STRING, None),
            Field("retry_after_ms", Kind.INT, None),
        ),
        FeatureMapList: (Field("feature_map", Kind.TABLES, 0, None, FeatureMap),),
        RequestAsyncUpdateModel: (
            Field("fl_name", Kind.STRING, 0),
            Field("fl_id", Kind.STRING, 1),
            Field("iteration", Kind.INT, 2, 0),
            Field("data_size", Kind.INT, 3, 0),
            Field("feature_map", Kind.TABLES, 4, None, FeatureMap),
        ),
        ResponseAsyncUpdateModel: (
            Field("retcode", Kind.INT, 0, 0),
            Field("reason", Kind.STRING, 1),
            Field("iteration", Kind.INT, 2, 0),
        ),
        RequestAsyncGetModel: (
            Field("fl_name", Kind.STRING, 0),
            Field("iteration", Kind.INT, 1, 0),
        ),
        ResponseAsyncGetModel: (
            Field("retcode", Kind.INT, 0, 0),
            Field("reason", Kind.STRING, 1),
            Field("iteration", Kind.INT, 2, 0),
            Field("feature_map", Kind.TABLES, 3, None, FeatureMap),
        ),
        ClientPublicKeys: (
            Field("fl_id", Kind.STRING, 0),
            Field("c_pk", Kind.BYTES, 1),
            Field("s_pk", Kind.BYTES, 2),
            Field("pw_iv", Kind.BYTES, 3),
            Field("pw_salt", Kind.BYTES, 4),
            Field("timestamp", Kind.STRING, 5),
            Field("iteration", Kind.INT, 6, 0),
            Field("signature", Kind.BYTES, 7),
            Field("certificate_chain", Kind.STRINGS, 8),
        ),
        ClientShare: (
            Field("fl_id", Kind.STRING, 0),
            Field("share", Kind.BYTES, 1),
            Field("index", Kind.INT, 2, 0),
        ),
        RequestExchangeKeys: (
            Field("fl_id", Kind.STRING, 0),
            Field("c_pk", Kind.BYTES, 1),
            Field("s_pk", Kind.BYTES, 2),
            Field("iteration", Kind.INT, 3, 0),
            Field("timestamp", Kind.STRING, 4),
            Field("ind_iv", Kind.BYTES, 5),
            Field("pw_iv", Kind.BYTES, 6),
            Field("pw_salt", Kind.BYTES, 7),
            Field("signature", Kind.BYTES, 8),
            Field("certificate_chain", Kind.STRINGS, 9),
        ),
        ResponseExchangeKeys: (
            Field("retcode", Kind.INT, 0, 0),
            Field("reason", Kind.STRING, 1),
            Field("next_req_time", Kind.STRING, 2),
            Field("iteration", Kind.INT, 3, 0),
            Field("verdict", Kind.STRING, None),
            Field("retry_after_ms", Kind.INT, None),
        ),
        GetExchangeKeys: (
            Field("fl_id", Kind.STRING, 0),
            Field("iteration", Kind.INT, 1, 0),
            Field("timestamp", Kind.STRING, 2),
            Field("signature", Kind.BYTES, 3),
        ),
        ReturnExchangeKeys: (
            Field("retcode", Kind.INT, 0, 0),
            Field("iteration", Kind.INT, 1, 0),
            Field("remote_publickeys", Kind.TABLES, 2, None, ClientPublicKeys),
            Field("next_req_time", Kind.STRING, 3),
            Field("verdict", Kind.STRING, None),
            Field("retry_after_ms", Kind.INT, None),
        ),
        RequestShareSecrets: (
            Field("fl_id", Kind.STRING, 0),
            Field("encrypted_shares", Kind.TABLES, 1, None, ClientShare),
            Field("iteration", Kind.INT, 2, 0),
            Field("timestamp", Kind.STRING, 3),
            Field("signature", Kind.BYTES, 4),
        ),
        ResponseShareSecrets: (
            Field("retcode", Kind.INT, 0, 0),
            Field("reason", Kind.STRING, 1),
            Field("next_req_time", Kind.STRING, 2),
            Field("iteration", Kind.INT, 3, 0),
            Field("verdict", Kind.STRING, None),
            Field("retry_after_ms", Kind.INT, None),
        ),
        GetShareSecrets: (
            Field("fl_id", Kind.STRING, 0),
            Field("iteration", Kind.INT, 1, 0),
            Field("timestamp", Kind.STRING, 2),
            Field("signature", Kind.BYTES, 3),
        ),
        ReturnShareSecrets: (
            Field("retcode", Kind.INT, 0, 0),
            Field("iteration", Kind.INT, 1, 0),
            Field("encrypted_shares", Kind.TABLES, 2, None, ClientShare),
            Field("next_req_time", Kind.STRING, 3),
            Field("verdict", Kind.STRING, None),
            Field("retry_after_ms", Kind.INT, None),
        ),
        GetClientList: (
            Field("fl_id", Kind.STRING, 0),
            Field("iteration", Kind.INT, 1, 0),
            Field("timestamp", Kind.STRING, 2),
            Field("signature", Kind.BYTES, 3),
        ),
        ReturnClientList: (
            Field("retcode", Kind.INT, 0, 0),
            Field("reason", Kind.STRING, 1),
            Field("clients", Kind.STRINGS, 2),
            Field("iteration", Kind.INT, 3, 0),
            Field("next_req_time", Kind.STRING, 4),
            Field("verdict", Kind.STRING, None),
            Field("retry_after_ms", Kind.INT, None),
        ),
        ClientListSign: (
            Field("fl_id", Kind.STRING, 0),
            Field("signature", Kind.BYTES, 1),
        ),
        SendClientListSign: (
            Field("fl_id", Kind.STRING, 0),
            Field("iteration", Kind.INT, 1, 0),
            Field("timestamp", Kind.STRING, 2),
            Field("signature", Kind.BYTES, 3),
            Field("req_signature", Kind.BYTES, 4),
        ),
        ResponseClientListSign: (
            Field("retcode", Kind.INT, 0, 0),
            Field("reason", Kind.STRING, 1),
            Field("iteration", Kind.INT, 2, 0),
            Field("next_req_time", Kind.STRING, 3),
            Field("verdict", Kind.STRING, None),
            Field("retry_after_ms", Kind.INT, None),
        ),
        RequestAllClientListSign: (
            Field("fl_id", Kind.STRING, 0),
            Field("iteration", Kind.INT, 1, 0),
            Field("timestamp", Kind.STRING, 2),
            Field("signature", Kind.BYTES, 3),
        ),
        ReturnAllClientListSign: (
            Field("retcode", Kind.INT, 0, 0),
            Field("reason", Kind.STRING, 1),
            Field("client_list_sign", Kind.TABLES, 2, None, ClientListSign),
            Field("iteration", Kind.INT, 3, 0),
            Field("next_req_time", Kind.STRING, 4),
            Field("verdict", Kind.STRING, None),
            Field("retry_after_ms", Kind.INT, None),
        ),
        SendReconstructSecret: (
            Field("fl_id", Kind.STRING, 0),
            Field("reconstruct_secret_shares", Kind.TABLES, 1, None, ClientShare),
            Field("iteration", Kind.INT, 2, 0),
            Field("timestamp", Kind.STRING, 3),
            Field("signature", Kind.BYTES, 4),
        ),
        ReconstructSecret: (
            Field("retcode", Kind.INT, 0, 0),
            Field("reason", Kind.STRING, 1),
            Field("iteration", Kind.INT, 2, 0),
            Field("next_req_time", Kind.STRING, 3),
            Field("verdict", Kind.STRING, None),
            Field("retry_after_ms", Kind.INT, None),
        ),
        RequestSecureOffer: (
            Field("fl_id", Kind.STRING, None),
            Field("iteration", Kind.INT, None, 0),
            Field("attempt", Kind.INT, None, 0),
            Field("share_key", Kind.BYTES, None),
            Field("mask_key", Kind.BYTES, None),
            Field("signature", Kind.BYTES, None),
        ),
        RequestSecureRead: (
            Field("fl_id", Kind.STRING, None),
            Field("iteration", Kind.INT, None, 0),
            Field("attempt", Kind.INT, None, 0),
            Field("hold_ms", Kind.INT, None),
        ),
        SecureOffer: (
            Field("index", Kind.INT, None, 0),
            Field("fl_id", Kind.STRING, None),
            Field("share_key", Kind.BYTES, None),
            Field("mask_key", Kind.BYTES, None),
            Field("signature", Kind.BYTES, None),
        ),
        ResponseSecureRoster: (
            Field("retcode", Kind.INT, None, 0),
            Field("reason", Kind.STRING, None),
            Field("iteration", Kind.INT, None, 0),
            Field("leaves", Kind.INT8S, None),
            Field("offers", Kind.TABLES, None, None, SecureOffer),
            Field("verdict", Kind.STRING, None),
            Field("retry_after_ms", Kind.INT, None),
        ),
        RequestSecureShare: (
            Field("fl_id", Kind.STRING, None),
            Field("iteration", Kind.INT, None, 0),
            Field("attempt", Kind.INT, None, 0),
            Field("commitment", Kind.BYTES, None),
            Field("sealed", Kind.INT8S, None),
        ),
        ResponseSecureDelivery: (
            Field("retcode", Kind.INT, None, 0),
            Field("reason", Kind.STRING, None),
            Field("iteration", Kind.INT, None, 0),
            Field("sharers", Kind.INT8S, None),
            Field("sealed", Kind.INT8S, None),
            Field("verdict", Kind.STRING, None),
            Field("retry_after_ms", Kind.INT, None),
        ),
        ResponseSecureSurvivors: (
            Field("retcode", Kind.INT, None, 0),
            Field("reason", Kind.STRING, None),
            Field("iteration", Kind.INT, None, 0),
            Field("counted", Kind.INT8S, None),
            Field("tags", Kind.INT8S, None),
            Field("verdict", Kind.STRING, None),
            Field("retry_after_ms", Kind.INT, None),
        ),
        RequestSecureConfirm: (
            Field("fl_id", Kind.STRING, None),
            Field("iteration", Kind.INT, None, 0),
            Field("attempt", Kind.INT, None, 0),
            Field("tags", Kind.INT8S, None),
        ),
        ResponseSecureTags: (
            Field("retcode", Kind.INT, None, 0),
            Field("reason", Kind.STRING, None),
            Field("iteration", Kind.INT, None, 0),
            Field("senders", Kind.INT8S, None),
            Field("tags", Kind.INT8S, None),
            Field("verdict", Kind.STRING, None),
            Field("retry_after_ms", Kind.INT, None),
        ),
        RequestSecureReveal: (
            Field("fl_id", Kind.STRING, None),
            Field("iteration", Kind.INT, None, 0),
            Field("attempt", Kind.INT, None, 0),
            Field("owners", Kind.INT8S, None),
            Field("shares", Kind.INT8S, None),
        ),
        ResponseSecureStep: (
            Field("retcode", Kind.INT, None, 0),
            Field("reason", Kind.STRING, None),
            Field("iteration", Kind.INT, None, 0),
            Field("verdict", Kind.STRING, None),
            Field("retry_after_ms", Kind.INT, None),
        ),
    }
)
