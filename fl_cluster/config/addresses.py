"""Addresses as users write them: `ip:port`, `name:port`, `[ipv6]:port`, and the cache's URLs.

More is accepted than in the original, which knew IPv4 only; what is refused gets its words.
A password that is part of an address is kept apart from the moment it is read: neither
`repr`, nor `str`, nor any message of this module shows it.
"""

from __future__ import annotations

import ipaddress
import re
from dataclasses import dataclass, field, replace
from enum import StrEnum
from urllib.parse import quote, unquote

from fl_cluster.errors import ConfigError, Problem

HOST_LABEL = re.compile(r"(?!-)[A-Za-z0-9_-]{1,63}(?<!-)\Z")
DIGITS = re.compile(r"[0-9]+\Z")
LOGIN = re.compile(r"((?:[a-z]+://)?).*@", re.DOTALL)
DEFAULT_REDIS_PORT = 6379
DEFAULT_SENTINEL_PORT = 26379
SERVICE = re.compile(r"[A-Za-z0-9._-]+\Z")
"""What Redis Sentinel allows as the name of what it watches over."""

MAX_SOCKET_PATH_BYTES = 107
"""sockaddr_un of Linux holds 108 bytes, the last of which is 0."""


@dataclass(frozen=True, slots=True)
class Address:
    """A host and a port to listen on or to connect to; `str` gives the form users write."""

    host: str
    """A name, an IPv4 address, or an IPv6 address without brackets."""
    port: int

    @property
    def is_wildcard(self) -> bool:
        """Whether it stands for all addresses of a machine, so that nobody can connect to it."""
        try:
            return ipaddress.ip_address(self.host).is_unspecified
        except ValueError:
            return False

    def __str__(self) -> str:
        host = f"[{self.host}]" if ":" in self.host else self.host
        return f"{host}:{self.port}"


def parse_address(text: str) -> Address:
    """The address in `text`; `ValueError` says in a clause what is wrong with it."""
    if text.startswith("["):
        host, closed, rest = text[1:].partition("]")
        if not closed or not rest.startswith(":"):
            raise ValueError("an IPv6 address is written [address]:port")
        port = rest[1:]
    else:
        host, colon, port = text.rpartition(":")
        if not colon:
            raise ValueError("the port is missing: expected host:port")
        if ":" in host:
            raise ValueError("an IPv6 address is written [address]:port")
    check_host(host, in_brackets=text.startswith("["))
    return Address(host, parse_port(port))


def parse_port(text: str) -> int:
    """The port in `text`; `ValueError` says what is wrong with it."""
    if not DIGITS.match(text):
        raise ValueError(f"the port {text!r} is not a number")
    port = int(text[-12:])
    if not 1 <= port <= 65535 or len(text.lstrip("0")) > 5:
        raise ValueError(f"the port {text} is not between 1 and 65535")
    return port


def check_host(host: str, *, in_brackets: bool = False) -> None:
    """Return when `host` is a name or an IP address; `ValueError` says what is wrong."""
    if in_brackets:
        try:
            ipaddress.IPv6Address(host)
        except ValueError:
            raise ValueError(f"{host!r} is not an IPv6 address") from None
        return
    labels = host.removesuffix(".").split(".")
    if DIGITS.match(labels[-1]):
        # A name never ends in a number, so this was meant as IPv4: 256.0.0.1 is no name.
        try:
            ipaddress.IPv4Address(host)
        except ValueError:
            raise ValueError(f"{host!r} is not an IPv4 address") from None
        return
    if len(host) > 253 or not all(HOST_LABEL.match(label) for label in labels):
        raise ValueError(f"{host!r} is not a host name")


def parse_networks(text: str) -> tuple[ipaddress.IPv4Network | ipaddress.IPv6Network, ...]:
    """The networks in `text`, separated by commas; `ValueError` says which part is none.

    An address stands for itself.
    """
    networks = []
    for part in text.split(","):
        if not part.strip():
            continue
        try:
            networks.append(ipaddress.ip_network(part.strip()))
        except ValueError as exc:
            raise ValueError(f"{exc}; expected such as 10.0.0.0/8 or 192.168.7.1") from None
    return tuple(networks)


def server_http_address(text: str) -> Address:
    """Where a server listens for devices, or `ConfigError` in the original's words."""
    return _address_or(text, f"The format of http server address '{text}' is invalid")


def scheduler_http_address(text: str) -> Address:
    """Where the scheduler listens for operators, or `ConfigError` in the original's words."""
    return _address_or(
        text, f"Failed to start scheduler http server, invalid server address: {text}"
    )


def _address_or(text: str, message: str) -> Address:
    try:
        return parse_address(text)
    except ValueError as exc:
        raise ConfigError((Problem("", f"{message} ({exc})"),)) from None


def tcp_server_ip(text: str) -> str:
    """The host (without port) a server listens on for the cluster, or `ConfigError`."""
    in_brackets = text.startswith("[") and text.endswith("]")
    host = text[1:-1] if in_brackets else text
    try:
        check_host(host, in_brackets=in_brackets or ":" in host)
    except ValueError as exc:
        message = f"The tcp server ip '{text}' is invalid ({exc})"
        raise ConfigError((Problem("", message),)) from None
    return host


class CacheKind(StrEnum):
    """How the cache is reached."""

    TCP = "tcp"
    TLS = "tls"
    UNIX = "unix"
    SENTINEL = "sentinel"
    EMBEDDED = "embedded"


@dataclass(frozen=True, slots=True, kw_only=True)
class CacheAddress:
    """Where Redis is.  `str` names it for messages; only `secret_url` has the password."""

    kind: CacheKind
    host: str = ""
    port: int = 0
    path: str = ""
    """The socket's path when `kind` is UNIX."""
    sentinels: tuple[Address, ...] = ()
    """Whom to ask for the primary when `kind` is SENTINEL; host and port are then empty."""
    service: str = ""
    """What the Sentinels call that primary and its replicas."""
    database: int = 0
    username: str = ""
    password: str = field(default="", repr=False)
    is_bare: bool = field(default=False, compare=False, repr=False)
    """Whether it was written as `ip:port`, so that `enable_ssl` says how it is spoken to."""

    def __str__(self) -> str:
        suffix = f"/{self.database}" if self.database else ""
        match self.kind:
            case CacheKind.EMBEDDED:
                return "embedded"
            case CacheKind.UNIX:
                return f"unix:{self.path}" + (f"?db={self.database}" if self.database else "")
            case CacheKind.SENTINEL:
                return f"sentinel://{self._endpoints}/{self.service}{suffix}"
            case CacheKind.TLS if self.is_bare:
                return self._endpoint
            case CacheKind.TLS:
                return f"rediss://{self._endpoint}{suffix}"
            case CacheKind.TCP:
                return f"redis://{self._endpoint}{suffix}" if suffix else self._endpoint

    @property
    def _endpoint(self) -> str:
        return str(Address(self.host, self.port))

    @property
    def _endpoints(self) -> str:
        return ",".join(map(str, self.sentinels))

    def secret_url(self) -> str:
        """The URL a Redis client understands, password included: never log it.

        That of Sentinels is one for `parse_cache_address`.  An embedded Redis has no address
        until it runs.
        """
        if self.kind is CacheKind.EMBEDDED:
            raise ValueError("an embedded cache has no address before it is started")
        login = quote(self.username, safe="")
        if self.password:
            login += ":" + quote(self.password, safe="")
        at = f"{login}@" if login else ""
        if self.kind is CacheKind.UNIX:
            return f"unix://{at}{quote(self.path)}?db={self.database}"
        if self.kind is CacheKind.SENTINEL:
            return f"sentinel://{at}{self._endpoints}/{self.service}/{self.database}"
        scheme = "rediss" if self.kind is CacheKind.TLS else "redis"
        return f"{scheme}://{at}{self._endpoint}/{self.database}"

    def encrypted(self) -> CacheAddress:
        """The same place under `enable_ssl`: a bare address means TLS, as it always did.

        An address with a scheme says by itself whether it does; sockets and the embedded Redis
        do not leave the host.
        """
        return replace(self, kind=CacheKind.TLS) if self.is_bare else self

    def with_login(self, username: str, password: str) -> CacheAddress:
        """The same place; what is not empty here wins over what the URL said."""
        return replace(
            self,
            username=username or self.username,
            password=password or self.password,
        )


def parse_cache_address(text: str) -> CacheAddress:
    """The cache's address in `text`; `ValueError` says in a clause what is wrong with it."""
    if text == "embedded":
        return CacheAddress(kind=CacheKind.EMBEDDED)
    if text.startswith("unix:"):
        return _unix_address(text)
    if text.startswith(("redis://", "rediss://")):
        return _url_address(text)
    if text.startswith("sentinel://"):
        return _sentinel_address(text)
    if "://" in text:
        scheme = text.partition("://")[0]
        known = "redis://, rediss://, unix:// or sentinel://"
        raise ValueError(f"{scheme}:// is not known: use {known}")
    if "@" in text:
        raise ValueError("a user or password takes the form redis://user:password@host:port")
    address = parse_address(text)
    return CacheAddress(kind=CacheKind.TCP, host=address.host, port=address.port, is_bare=True)


def _unix_address(text: str) -> CacheAddress:
    path, _, query = text.removeprefix("unix:").partition("?")
    username, password, database = "", "", 0
    if path.startswith("//"):
        authority, slash, rest = path.removeprefix("//").partition("/")
        if not slash or (authority and not authority.endswith("@")):
            raise ValueError("unix:// is followed by an absolute path: unix:///run/redis.sock")
        username, password = _login(authority)
        path = unquote(slash + rest)
    if query:
        name, _, number = query.partition("=")
        if name != "db":
            raise ValueError("a unix: address takes no option but ?db=number")
        database = _database(number)
    if path.startswith("//"):
        path = "/" + path.lstrip("/")  # the same file, and no second meaning when written again
    if not path or "\0" in path:
        raise ValueError("the path of the socket is missing: expected unix:/run/redis.sock")
    if len(path.encode()) > MAX_SOCKET_PATH_BYTES:
        raise ValueError("the path of the socket is longer than the 107 bytes Linux allows")
    return CacheAddress(
        kind=CacheKind.UNIX,
        path=path,
        database=database,
        username=username,
        password=password,
    )


def _url_address(text: str) -> CacheAddress:
    scheme, _, rest = text.partition("://")
    authority, _, database = rest.partition("/")
    _check_rest(scheme, database)
    login, _, place = authority.rpartition("@")
    if not place:
        raise ValueError("the host is missing: expected redis://host:port")
    address = _with_port(place, DEFAULT_REDIS_PORT)
    username, password = _login(login)
    return CacheAddress(
        kind=CacheKind.TLS if scheme == "rediss" else CacheKind.TCP,
        host=address.host,
        port=address.port,
        database=_database(database),
        username=username,
        password=password,
    )


def _sentinel_address(text: str) -> CacheAddress:
    scheme, _, rest = text.partition("://")
    authority, _, path = rest.partition("/")
    _check_rest(scheme, path)
    login, _, places = authority.rpartition("@")
    if not places:
        raise ValueError("the hosts are missing: expected sentinel://host:port,host:port/service")
    service, _, database = path.partition("/")
    if not SERVICE.match(service):
        raise ValueError(
            "the name by which the Sentinels know the primary is missing or not made of letters,"
            " digits, dots, dashes: expected sentinel://host:port,host:port/service"
        )
    username, password = _login(login)
    return CacheAddress(
        kind=CacheKind.SENTINEL,
        sentinels=tuple(_with_port(place, DEFAULT_SENTINEL_PORT) for place in places.split(",")),
        service=service,
        database=_database(database),
        username=username,
        password=password,
    )


def _check_rest(scheme: str, rest: str) -> None:
    """`ValueError` when what follows the hosts of a URL cannot be meant as it is written."""
    if "@" in rest:
        # Taken literally the host would be a piece of the password, and messages show hosts.
        raise ValueError("a / in the user or password is written %2F")
    if "?" in rest or "#" in rest:
        raise ValueError(f"a {scheme}:// address takes no options")


def _with_port(place: str, default: int) -> Address:
    has_port = "]:" in place if place.startswith("[") else ":" in place
    return parse_address(place if has_port else f"{place}:{default}")


def _login(authority: str) -> tuple[str, str]:
    username, _, password = authority.removesuffix("@").partition(":")
    return unquote(username), unquote(password)


def _database(text: str) -> int:
    if not text:
        return 0
    if not DIGITS.match(text) or len(text) > 6:
        raise ValueError(f"the database {text!r} is not a number")
    return int(text)


def without_login(text: str) -> str:
    """The address `text` with everything between its scheme and its last @ taken out."""
    return LOGIN.sub(r"\1***@", text)
