"""What the job of this process was configured with, for programs that ask.

There is one context per process.  Every class of this package that loads a configuration file
fills it, so that a second job starts from its own file alone.  It holds what the file says:
the running job's settings, which a first server or a new run may have set otherwise, are the
cluster's and not here.
Of what programs set here, the instance name and the passwords have an effect; the rest is
only given back.
"""

from __future__ import annotations

import os
import time
from functools import cache
from typing import Any

from fl_cluster.config.schema import JobSettings, Settings
from fl_cluster.program.ssl_config import SSLConfig

ROLE_OF_SERVER = "MS_SERVER"
ROLE_OF_WORKER = "MS_WORKER"
ROLE_OF_SCHEDULER = "MS_SCHED"

ENCRYPT_NONE = "NOT_ENCRYPT"
ENCRYPT_SIGNDS = "SIGNDS"
ENCRYPT_PW = "PW_ENCRYPT"
ENCRYPT_DP = "DP_ENCRYPT"
ENCRYPT_STABLE_PW = "STABLE_PW_ENCRYPT"

SERVER_MODE_FL = "FEDERATED_LEARNING"
SERVER_MODE_HYBRID = "HYBRID_TRAINING"
SERVER_MODE_CLOUD = "CLOUD_TRAINING"

FEDAVG = "FedAvg"
FEDPROX = "FedProx"
SCAFFOLD = "Scaffold"
FEDNOVA = "FedNova"

SUPPORT_AGG_TYPES = (FEDAVG, FEDPROX, SCAFFOLD, FEDNOVA)
SUPPORT_ENC_TYPES_CLOUD = (ENCRYPT_NONE, ENCRYPT_STABLE_PW)

DEFAULTS: dict[str, Any] = {
    "fl_name": "",
    "fl_iteration_num": 20,
    "server_mode": SERVER_MODE_FL,
    "enable_ssl": False,
    "aggregation_type": FEDAVG,
    "iid_rate": 0.0,
    "total_client_num": 1,
    "encrypt_type": ENCRYPT_NONE,
    "start_fl_job_threshold": 0,
    "start_fl_job_time_window": 3000,
    "update_model_ratio": 1.0,
    "update_model_time_window": 3000,
    "global_iteration_time_window": 3_600_000,
    "share_secrets_ratio": 1.0,
    "cipher_time_window": 1,
    "reconstruct_secrets_threshold": 1,
    "client_epoch_num": 25,
    "client_batch_size": 32,
    "client_learning_rate": 0.001,
    "http_url_prefix": "",
    "pki_verify": False,
    "secure_aggregation": False,
    "http_server_address": "",
    "tcp_server_ip": "127.0.0.1",
    "checkpoint_dir": "",
    "scheduler_manage_address": "",
    "server_password": "",
    "client_password": "",
    "ms_role": ROLE_OF_SERVER,
}
"""What a context says before anything was loaded."""


class FLContext:
    """One process's context.  `x()` reads and `set_x(value)` writes, as it has always been."""

    def __init__(self) -> None:
        self._values = dict(DEFAULTS)
        self._instance_name = ""

    @staticmethod
    def get_instance() -> FLContext:
        """The process's context."""
        return fl_context()

    def load(self, settings: JobSettings) -> None:
        """Take over what the file says; addresses, folders and passwords stay as they are."""
        kept = (
            "http_server_address",
            "tcp_server_ip",
            "checkpoint_dir",
            "scheduler_manage_address",
            "server_password",
            "client_password",
            "ms_role",
        )
        values = {**DEFAULTS, **{name: self._values[name] for name in kept}}
        values.update(_of_job(settings))
        if isinstance(settings, Settings):
            values.update(_of_server(settings))
        self._values = values

    def set_ssl_config(self, ssl_config: SSLConfig | None) -> None:
        """Remember the passwords; None leaves those that are there."""
        if ssl_config is not None:
            self.set_server_password(ssl_config.server_password)
            self.set_client_password(ssl_config.client_password)

    def ms_role(self) -> str:
        """Which role the file was loaded for."""
        return self._text("ms_role")

    def set_ms_role(self, role: str) -> None:
        """What `ms_role` says."""
        self._values["ms_role"] = role

    def fl_name(self) -> str:
        """The name of the job."""
        return self._text("fl_name")

    def fl_iteration_num(self) -> int:
        """How many rounds the job runs."""
        return self._int("fl_iteration_num")

    def server_mode(self) -> str:
        """FEDERATED_LEARNING, HYBRID_TRAINING or CLOUD_TRAINING."""
        return self._text("server_mode")

    def encrypt_type(self) -> str:
        """How a single update is hidden."""
        return self._text("encrypt_type")

    def aggregation_type(self) -> str:
        """How updates become the next model."""
        return self._text("aggregation_type")

    def iid_rate(self) -> float:
        """The weight of FedProx's proximal term."""
        return self._float("iid_rate")

    def total_client_num(self) -> int:
        """What Scaffold divides by."""
        return self._int("total_client_num")

    def start_fl_job_threshold(self) -> int:
        """How many devices a round admits."""
        return self._int("start_fl_job_threshold")

    def start_fl_job_time_window(self) -> int:
        """How long devices may check in, in milliseconds."""
        return self._int("start_fl_job_time_window")

    def update_model_ratio(self) -> float:
        """Which part of those admitted must report."""
        return self._float("update_model_ratio")

    def update_model_time_window(self) -> int:
        """How long devices may report, in milliseconds."""
        return self._int("update_model_time_window")

    def global_iteration_time_window(self) -> int:
        """How long a round may take, in milliseconds."""
        return self._int("global_iteration_time_window")

    def set_global_iteration_time_window(self, milliseconds: int) -> None:
        """What `global_iteration_time_window` says."""
        self._values["global_iteration_time_window"] = milliseconds

    def share_secrets_ratio(self) -> float:
        """Which part of a masked round's devices must share secrets."""
        return self._float("share_secrets_ratio")

    def cipher_time_window(self) -> int:
        """How long each step of a masked round may take, in milliseconds."""
        return self._int("cipher_time_window")

    def reconstruct_secrets_threshold(self) -> int:
        """How many shares rebuild a mask."""
        return self._int("reconstruct_secrets_threshold")

    def client_epoch_num(self) -> int:
        """How many epochs devices train."""
        return self._int("client_epoch_num")

    def client_batch_size(self) -> int:
        """The batch size of devices."""
        return self._int("client_batch_size")

    def client_learning_rate(self) -> float:
        """The learning rate of devices."""
        return self._float("client_learning_rate")

    def http_url_prefix(self) -> str:
        """What the devices' URLs begin with."""
        return self._text("http_url_prefix")

    def pki_verify(self) -> bool:
        """Whether devices prove who they are."""
        return bool(self._values["pki_verify"])

    def enable_ssl(self) -> bool:
        """Whether the job's connections are encrypted."""
        return bool(self._values["enable_ssl"])

    def set_enable_ssl(self, is_enabled: bool) -> None:
        """What `enable_ssl` says."""
        self._values["enable_ssl"] = is_enabled

    def secure_aggregation(self) -> bool:
        """Always false unless it was set."""
        return bool(self._values["secure_aggregation"])

    def set_secure_aggregation(self, is_secure: bool) -> None:
        """What `secure_aggregation` says."""
        self._values["secure_aggregation"] = is_secure

    def http_server_address(self) -> str:
        """Where devices, or a worker's servers, are reached."""
        return self._text("http_server_address")

    def set_http_server_address(self, address: str) -> None:
        """What `http_server_address` says."""
        self._values["http_server_address"] = address

    def tcp_server_ip(self) -> str:
        """Where the cluster's own connections listen."""
        return self._text("tcp_server_ip")

    def set_tcp_server_ip(self, address: str) -> None:
        """What `tcp_server_ip` says."""
        self._values["tcp_server_ip"] = address

    def checkpoint_dir(self) -> str:
        """The folder of recovery checkpoints."""
        return self._text("checkpoint_dir")

    def set_checkpoint_dir(self, folder: str) -> None:
        """What `checkpoint_dir` says."""
        self._values["checkpoint_dir"] = folder

    def scheduler_manage_address(self) -> str:
        """Where a scheduler answers operators."""
        return self._text("scheduler_manage_address")

    def set_scheduler_manage_address(self, address: str) -> None:
        """What `scheduler_manage_address` says."""
        self._values["scheduler_manage_address"] = address

    def server_password(self) -> str:
        """The password of the server's PKCS#12 file."""
        return self._text("server_password")

    def set_server_password(self, password: str) -> None:
        """The password that the next job uses for the server's PKCS#12 file."""
        self._values["server_password"] = password

    def client_password(self) -> str:
        """The password of the client's PKCS#12 file."""
        return self._text("client_password")

    def set_client_password(self, password: str) -> None:
        """The password that the next job uses for the client's PKCS#12 file."""
        self._values["client_password"] = password

    def instance_name(self) -> str:
        """The name callbacks are told; unless one was set, it is when this process began."""
        return self._instance_name or _name_of_process(os.getpid())

    def set_instance_name(self, name: str) -> None:
        """The name callbacks are told from now on."""
        self._instance_name = name

    def _text(self, name: str) -> str:
        return str(self._values[name])

    def _int(self, name: str) -> int:
        return int(self._values[name])

    def _float(self, name: str) -> float:
        return float(self._values[name])


@cache
def _name_of_process(process_id: int) -> str:
    """Of a forked child too, which has its parent's context and a beginning of its own."""
    import psutil  # not what it takes to import the package

    began_ms = int(psutil.Process(process_id).create_time() * 1000)
    moment = time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(began_ms / 1000))
    return f"instance_{moment}.{began_ms % 1000:03d}"


@cache
def fl_context() -> FLContext:
    """The context of this process."""
    return FLContext()


def _of_job(settings: JobSettings) -> dict[str, Any]:
    return {
        "fl_name": settings.name,
        "fl_iteration_num": settings.rounds_total,
        "server_mode": settings.server_mode.value,
        "enable_ssl": settings.tls.enabled,
        "aggregation_type": settings.aggregation.method.value,
        "iid_rate": settings.aggregation.proximal_weight,
        "total_client_num": settings.aggregation.total_devices,
    }


def _of_server(settings: Settings) -> dict[str, Any]:
    masking = settings.encrypt.masking
    return {
        "encrypt_type": settings.encrypt.kind.value,
        "start_fl_job_threshold": settings.rounds.cohort_size,
        "start_fl_job_time_window": settings.rounds.select_window_ms,
        "update_model_ratio": settings.rounds.report_ratio,
        "update_model_time_window": settings.rounds.report_window_ms,
        "global_iteration_time_window": settings.rounds.round_window_ms,
        "share_secrets_ratio": masking.share_ratio,
        "cipher_time_window": masking.window_ms,
        "reconstruct_secrets_threshold": masking.reconstruct_threshold,
        "client_epoch_num": settings.device.epochs,
        "client_batch_size": settings.device.batch_size,
        "client_learning_rate": settings.device.learning_rate,
        "http_url_prefix": settings.device.url_prefix,
        "pki_verify": settings.verify.enabled,
    }
