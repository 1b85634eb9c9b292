"""A scheduler as part of a Python program; as with servers, nothing happens before `run`."""

from __future__ import annotations

from fl_cluster.program.check_type import check_str
from fl_cluster.program.context import ROLE_OF_SCHEDULER, fl_context
from fl_cluster.program.server_job import configure_logs, passwords
from fl_cluster.program.ssl_config import SSLConfig, check_ssl_config
from fl_cluster.program.yaml_config import load_settings


class FlSchedulerJob:
    """One scheduler of a job.  RuntimeError: what is wrong with an argument or with the file."""

    def __init__(
        self, yaml_config: str, manage_address: str, ssl_config: SSLConfig | None = None
    ) -> None:
        check_str("yaml_config", yaml_config)
        check_str("manage_address", manage_address)
        check_ssl_config(ssl_config, "None or instance of SSLConfig")
        context = fl_context()
        context.set_scheduler_manage_address(manage_address)
        context.set_ssl_config(ssl_config)
        context.set_ms_role(ROLE_OF_SCHEDULER)
        self._settings = load_settings(yaml_config, "scheduler")
        self._manage_address = manage_address

    def run(self) -> None:
        """Answer operators until SIGTERM or SIGINT; then return.

        RuntimeError: what kept the scheduler from starting or ended it.
        """
        from fl_cluster.app.scheduler import SchedulerOptions, serve
        from fl_cluster.program.main_thread import MainThread, run_job

        configure_logs(self._settings)
        options = SchedulerOptions(self._manage_address, passwords=passwords())
        run_job(
            lambda stop, ready: serve(self._settings, options, stop=stop, ready=ready),
            MainThread(),
        )
