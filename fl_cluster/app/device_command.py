"""`fl-cluster device`: from arguments to a device."""

from __future__ import annotations

import argparse
from collections.abc import Callable
from typing import Any

from fl_cluster.app.token_files import read_token
from fl_cluster.errors import StartupError
from fl_cluster.sdk import DeviceIdentity, FederatedDevice, tls_context


def device_of(options: argparse.Namespace, train: Callable[..., Any]) -> FederatedDevice:
    """The device that the arguments describe; a fault says what of them cannot be used.

    Secrets come from files: every user of the host sees arguments.
    """
    chosen: dict[str, Any] = {"patience_s": options.patience}
    if options.device_id:
        chosen["device_id"] = options.device_id
    if options.identity:
        chosen["identity"] = DeviceIdentity.from_files(*options.identity)
    if options.token_file:
        chosen |= {
            "token": read_token(options.token_file),
            "token_over_http": options.token_over_http,
        }
    if options.ca:
        chosen["tls"] = tls_context(options.ca)
    if options.protection:
        chosen["protection"] = options.protection
    if options.url_prefix:
        chosen["url_prefix"] = options.url_prefix
    if options.join_file:
        if options.server:
            raise StartupError("--join-file names the servers: leave --server out")
        line = read_token(options.join_file)
        return FederatedDevice.join(line, train=train, data_size=options.data_size, **chosen)
    if not options.server:
        raise StartupError("expected --server URL, or --join-file FILE")
    return FederatedDevice(options.server, train=train, data_size=options.data_size, **chosen)
