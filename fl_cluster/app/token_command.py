"""`fl-cluster token create | list | revoke` and `fl-cluster join-line`.

They go to the job's store themselves: tokens can be made before a server runs, and a change is
in force on all servers within a second.  A new token is shown once, alone on standard output,
and can be written to a file of mode 0600 instead; nowhere else is it kept.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import sys
from collections.abc import Awaitable, Callable, Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path

from fl_cluster.app.arguments import overrides_of
from fl_cluster.app.join_protection import UNKNOWN, protection_of
from fl_cluster.app.store_access import open_store
from fl_cluster.app.token_files import read_token
from fl_cluster.config.load import load
from fl_cluster.config.schema import JobSettings, Settings
from fl_cluster.errors import ExitCode, FlClusterError, StartupError
from fl_cluster.lifecycle.membership import Role
from fl_cluster.sdk.join_line import JoinLine
from fl_cluster.security.tokens import (
    TokenRecord,
    TokenRole,
    check_label,
    expiry,
    lifetime_ms,
    sorted_records,
)
from fl_cluster.security.watched_files import read_whole
from fl_cluster.service import token_changes
from fl_cluster.service.token_changes import TokenWish
from fl_cluster.store.redis.connection import Connection
from fl_cluster.store.redis.jobs import RedisJobStore
from fl_cluster.store.redis.keys import JobKeys
from fl_cluster.store.redis.members import RedisMemberStore
from fl_cluster.store.redis.tokens import RedisTokenStore

Options = argparse.Namespace
Tell = Callable[[str], None]

REFUSED_OVER_HTTP = (
    "the line says plain HTTP, over which servers refuse its token: set enable_ssl, give --https"
    " when a proxy in front of them has TLS, or set cluster.allow_tokens_over_http\n"
)


class NoSuchToken(FlClusterError):
    """Nobody has a token of that name."""

    exit_code = ExitCode.REFUSED


def token(options: Options, tell: Tell) -> int:
    """Carry out `token create`, `token list` or `token revoke`."""
    call = {"create": _create, "list": _list, "revoke": _revoke}[options.what]
    return asyncio.run(_connected(options, tell, call))


def join_line(options: Options, tell: Tell) -> int:
    """Make a token, or take one, and show the line with all that a participant needs."""
    return asyncio.run(_connected(options, tell, _join_line))


async def _connected(
    options: Options,
    tell: Tell,
    call: Callable[[Options, JobSettings, Connection, Tell], Awaitable[None]],
) -> int:
    settings = load(options.yaml_config, "scheduler", overrides=overrides_of(options))
    async with open_store(settings) as connection:
        await call(options, settings, connection, tell)
    return ExitCode.DONE


def _as_server(options: Options) -> Settings:
    """The whole of the file; ConfigError when servers could not use it."""
    return load(options.yaml_config, "server", overrides=dict(options.set))


def _store(settings: JobSettings, connection: Connection) -> RedisTokenStore:
    return RedisTokenStore(connection, JobKeys(settings.name))


async def _make(
    options: Options, settings: JobSettings, connection: Connection
) -> tuple[str, TokenRecord]:
    now_ms = await connection.now_ms()
    try:
        wish = TokenWish(
            label=check_label(options.label),
            role=TokenRole(options.role),
            now_ms=now_ms,
            expires_ms=expiry(options.expires, now_ms) if options.expires else None,
            others_end_ms=now_ms + lifetime_ms(options.overlap) if options.overlap else None,
        )
    except ValueError as exc:
        raise StartupError(str(exc)) from exc
    return await token_changes.create(_store(settings, connection), wish)


async def _create(
    options: Options, settings: JobSettings, connection: Connection, tell: Tell
) -> None:
    made, record = await _make(options, settings, connection)
    end = "" if record.expires_ms is None else f", until {_instant(record.expires_ms)}"
    sys.stderr.write(
        f"made token {record.id} of {record.label} for role {record.role}{end}:"
        " it is shown only now\n"
    )
    _hand_over(made, options.out, tell)


def _hand_over(secret: str, out: Path | None, tell: Tell) -> None:
    if out is None:
        tell(secret)
        return
    try:
        descriptor = os.open(out, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    except OSError as exc:
        raise StartupError(f"--out {out}: {exc.strerror or exc}") from exc
    with os.fdopen(descriptor, "w") as file:
        file.write(f"{secret}\n")


async def _list(
    options: Options, settings: JobSettings, connection: Connection, tell: Tell
) -> None:
    store = _store(settings, connection)
    records, used = (await store.read()).records, await store.used()
    rows = _rows(list(sorted_records(records)), used, await connection.now_ms())
    if options.format == "json":
        tell(json.dumps(rows, indent=2))
    elif not rows:
        tell("no tokens")
    else:
        _tell_table(rows, tell)


def _rows(
    records: Sequence[TokenRecord], used: Mapping[str, int], now_ms: int
) -> list[dict[str, str | None]]:
    return [
        {
            "label": record.label,
            "role": record.role.value,
            "state": record.state(now_ms),
            "created": _instant(record.created_ms),
            "expires": _instant(record.expires_ms),
            "revoked": _instant(record.revoked_ms),
            "last_used": _instant(used.get(record.digest)),
            "id": record.id,
        }
        for record in records
    ]


def _tell_table(rows: Sequence[Mapping[str, str | None]], tell: Tell) -> None:
    names = list(rows[0])
    lines = [names, *([row[name] or "-" for name in names] for row in rows)]
    widths = [max(len(line[column]) for line in lines) for column in range(len(names))]
    for line in lines:
        cells = (cell.ljust(width) for cell, width in zip(line, widths, strict=True))
        tell("  ".join(cells).rstrip())


async def _revoke(
    options: Options, settings: JobSettings, connection: Connection, tell: Tell
) -> None:
    now_ms = await connection.now_ms()
    named = await token_changes.revoke(_store(settings, connection), options.name, now_ms)
    if not named:
        raise NoSuchToken(f"no token has the label or id {options.name!r}")
    for record in named:
        since = "" if record.revoked_ms == now_ms else f" since {_instant(record.revoked_ms)}"
        tell(f"token {record.id} of {record.label} is revoked{since}")


async def _join_line(
    options: Options, settings: JobSettings, connection: Connection, tell: Tell
) -> None:
    found = options.server or await _servers(settings, connection)
    servers = tuple(dict.fromkeys(found))  # behind a proxy, all of them are at its address
    authority = _authority(options, settings)
    job = await RedisJobStore(connection, JobKeys(settings.name)).job()
    protection = protection_of(options.protection, job, lambda: _as_server(options).encrypt)
    if options.token_file is not None:
        secret = read_token(str(options.token_file))
    else:
        secret, _ = await _make(options, settings, connection)
    line = JoinLine(
        servers=servers,
        job=settings.name,
        is_tls=settings.tls.enabled or options.https,
        url_prefix=options.url_prefix,
        token=secret,
        is_token_over_http=settings.cluster.allow_tokens_over_http,
        ca_der=authority,
        protection=protection or "",
    )
    if not (line.is_tls or line.is_token_over_http):
        sys.stderr.write(REFUSED_OVER_HTTP)
    if protection is None:
        sys.stderr.write(UNKNOWN)
    elif protection:
        sys.stderr.write(f"devices that use the line insist on {protection}\n")
    if line.fingerprint:
        sys.stderr.write(f"SHA-256 of the certificate authority: {line.fingerprint}\n")
    _hand_over(line.text(), options.out, tell)


async def _servers(settings: JobSettings, connection: Connection) -> tuple[str, ...]:
    members = await RedisMemberStore(connection, JobKeys(settings.name)).live()
    found = tuple(each.http_address for each in members if each.role is Role.SERVER)
    if not found:
        raise StartupError("no server of this job is running: name them with --server HOST:PORT")
    return found


def _authority(options: Options, settings: JobSettings) -> bytes:
    """The certificate that servers are known by, as DER; empty for those of the system."""
    path = options.ca or (settings.tls.ca_certificate if settings.tls.enabled else "")
    if options.public_ca or not path:
        return b""
    from cryptography.hazmat.primitives.serialization import Encoding
    from cryptography.x509 import load_pem_x509_certificates

    try:
        found = load_pem_x509_certificates(read_whole(path, "the certificate authority"))
    except ValueError as exc:
        raise StartupError(f"{path}: expected a certificate authority in PEM") from exc
    return found[0].public_bytes(Encoding.DER)


def _instant(at_ms: int | None) -> str | None:
    if at_ms is None:
        return None
    return f"{datetime.fromtimestamp(at_ms / 1000, UTC):%Y-%m-%dT%H:%M:%SZ}"
