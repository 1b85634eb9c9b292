"""A server as part of a Python program.

Nothing of a server is imported before `run`, and nothing is started, opened or locked: a
program may construct jobs, or only import this, and fork afterwards.
"""

from __future__ import annotations

import logging
import os
from pathlib import Path
from typing import TYPE_CHECKING, Any

from fl_cluster.program.callback import Callback
from fl_cluster.program.check_type import check_str
from fl_cluster.program.context import ROLE_OF_SERVER, fl_context
from fl_cluster.program.faults import as_runtime_error
from fl_cluster.program.feature_map import FeatureMap
from fl_cluster.program.ssl_config import SSLConfig, check_ssl_config
from fl_cluster.program.yaml_config import load_settings

if TYPE_CHECKING:
    from fl_cluster.config.schema import JobSettings
    from fl_cluster.program.weights import InitialWeights
    from fl_cluster.security.passwords import Passwords

TCP_SERVER_IP = "127.0.0.1"
CHECKPOINT_DIR = "./fl_ckpt/"


class FLServerJob:
    """One server of a job.  RuntimeError: what is wrong with an argument or with the file."""

    def __init__(
        self,
        yaml_config: str,
        http_server_address: str,
        tcp_server_ip: str = TCP_SERVER_IP,
        checkpoint_dir: str = CHECKPOINT_DIR,
        ssl_config: SSLConfig | None = None,
    ) -> None:
        check_str("yaml_config", yaml_config)
        check_str("http_server_address", http_server_address)
        check_str("tcp_server_ip", tcp_server_ip)
        check_str("checkpoint_dir", checkpoint_dir)
        check_ssl_config(ssl_config, "None or instance of SSLConfig")
        context = fl_context()
        context.set_http_server_address(http_server_address)
        context.set_tcp_server_ip(tcp_server_ip)
        context.set_checkpoint_dir(checkpoint_dir)
        context.set_ssl_config(ssl_config)
        context.set_ms_role(ROLE_OF_SERVER)
        self._settings = load_settings(yaml_config, "server")
        self._http_address = http_server_address
        self._tcp_ip = tcp_server_ip
        self.checkpoint_dir = checkpoint_dir
        self.fl_name = self._settings.name
        self.aggregation_type = self._settings.aggregation.method.value
        self.callback: Callback | None = None

    def run(
        self,
        feature_map: dict[str, Any] | FeatureMap | str | object | None = None,
        callback: Callback | None = None,
    ) -> None:
        """Be a server until SIGTERM, SIGINT, or until a scheduler ends it; then return.

        `feature_map` is what the job starts from when it is new: a dict of float32 arrays or a
        FeatureMap, the path of a `.ckpt` file, an object with `trainable_params()`, or a PyTorch
        module.  Recovery checkpoints in `checkpoint_dir` win over it.
        RuntimeError: an argument that cannot be used, or what kept the server from starting or
        ended it.  ValueError: a `.ckpt` file that cannot be read.
        """
        if callback is not None and not isinstance(callback, Callback):
            raise RuntimeError(
                "Parameter 'callback' is expected to be instance of Callback when it's not None,"
                f" but got {type(callback)}."
            )
        self.callback = callback
        self._serve(self._weights(feature_map))

    def _weights(self, feature_map: object) -> InitialWeights:
        from fl_cluster.errors import FlClusterError
        from fl_cluster.program.weights import InitialWeights
        from fl_cluster.store.checkpoints import CheckpointFolder

        try:
            folder = CheckpointFolder(Path(self.checkpoint_dir), self.fl_name, is_made=False)
            return InitialWeights(feature_map, folder)
        except FlClusterError as fault:
            raise as_runtime_error(fault) from None

    def _serve(self, weights: InitialWeights) -> None:
        from fl_cluster.app.server import ServerOptions, serve
        from fl_cluster.program.hooks import CallbackHooks
        from fl_cluster.program.main_thread import MainThread, run_job

        configure_logs(self._settings)
        folder, here = Path(self.checkpoint_dir), MainThread()
        options = ServerOptions(
            http_address=self._http_address,
            tcp_ip=self._tcp_ip,
            checkpoint_dir=folder,
            model_file=None,
            start=weights.start,
            makes_checkpoint_dir=False,
            passwords=passwords(),
        )
        callback = self.callback
        hooks = CallbackHooks(callback, here, self._settings, folder) if callback else None
        run_job(
            lambda stop, ready: serve(self._settings, options, stop=stop, ready=ready, hooks=hooks),
            here,
        )


def passwords() -> Passwords:
    """Those that the context was given."""
    from fl_cluster.security.passwords import Passwords

    context = fl_context()
    return Passwords(context.server_password(), context.client_password())


def configure_logs(settings: JobSettings) -> None:
    """Log to standard error, unless the program has said where its log goes."""
    from fl_cluster.errors import FlClusterError
    from fl_cluster.telemetry import logs

    try:
        level = logs.level_in_force(settings.cluster.log_level, os.environ)
    except FlClusterError as fault:
        raise as_runtime_error(fault) from None
    if not logging.getLogger().handlers:
        logs.configure(level, settings.cluster.log_format)
