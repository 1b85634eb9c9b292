"""One line of text with all that a participant needs: servers, job, token, certificate authority.

    fl://10.0.0.7:6666,10.0.0.8:6666/?job=Lenet&tls=1&token=flt_...&ca_sha256=...&ca=...
    fl://10.0.0.7:6666/?job=Lenet&tls=1&token=flt_...&protection=SECURE_AGGREGATION

`ca` is the authority's certificate, DER in base64url, and `ca_sha256` its fingerprint, by which
people compare it over another channel; without them an https server is known by the roots of
the system.  `protection` is what updates have to be protected with: the device that joins
refuses servers that announce less later.  The line is a secret, because the token is.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import ssl
from dataclasses import dataclass, field
from urllib.parse import parse_qsl, urlencode

from fl_cluster.errors import CallerProtocolError
from fl_cluster.sdk.required import Protection

SCHEME = "fl://"
KNOWN = frozenset({"job", "tls", "prefix", "token", "http", "ca_sha256", "ca", "protection"})


@dataclass(frozen=True, slots=True, kw_only=True)
class JoinLine:
    """What the line says; `str` does not show the token, only `text` does."""

    servers: tuple[str, ...]
    """`host:port` of each."""
    job: str
    is_tls: bool
    url_prefix: str = ""
    token: str = field(default="", repr=False)
    is_token_over_http: bool = False
    """Whether whoever runs the cluster allows the token to go over plain HTTP."""
    ca_der: bytes = field(default=b"", repr=False)
    protection: str = ""
    """What the participant's updates have to be protected with; empty when nothing is said."""

    @property
    def urls(self) -> list[str]:
        """Base URLs of the servers."""
        scheme = "https" if self.is_tls else "http"
        return [f"{scheme}://{server}" for server in self.servers]

    @property
    def fingerprint(self) -> str:
        """SHA-256 of the authority's certificate, hex; empty without one."""
        return hashlib.sha256(self.ca_der).hexdigest() if self.ca_der else ""

    def text(self) -> str:
        """The line, token included."""
        said = {"job": self.job, "tls": str(int(self.is_tls))}
        if self.protection:
            said["protection"] = self.protection
        if self.url_prefix:
            said["prefix"] = self.url_prefix
        if self.token:
            said["token"] = self.token
        if self.is_token_over_http:
            said["http"] = "1"
        if self.ca_der:
            said["ca_sha256"] = self.fingerprint
            said["ca"] = base64.urlsafe_b64encode(self.ca_der).decode().rstrip("=")
        return f"{SCHEME}{','.join(self.servers)}/?{urlencode(said)}"

    def tls_context(self) -> ssl.SSLContext | None:
        """How the servers are to prove who they are; None: by the roots of the system."""
        if not (self.is_tls and self.ca_der):
            return None
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
        try:
            context.load_verify_locations(cadata=self.ca_der)
        except ssl.SSLError as exc:
            raise CallerProtocolError(f"the join line: ca is not a certificate ({exc})") from exc
        return context


def parse_join_line(text: str) -> JoinLine:
    """What the line says; CallerProtocolError says what is wrong with it, never the token."""
    line = text.strip()
    if not line.startswith(SCHEME):
        raise CallerProtocolError(f"a join line begins with {SCHEME}")
    servers, slash, query = line.removeprefix(SCHEME).partition("/?")
    if not slash or not all(servers.split(",")):
        raise CallerProtocolError("a join line has the form fl://host:port,host:port/?job=...")
    try:
        line.encode()
        said = dict(parse_qsl(query, keep_blank_values=True, strict_parsing=True))
    except ValueError as exc:
        raise CallerProtocolError("the join line is damaged: expected name=value&...") from exc
    unknown = sorted(said.keys() - KNOWN)
    if unknown or "job" not in said:
        found = f"{', '.join(unknown)} is not known" if unknown else "job is missing"
        raise CallerProtocolError(f"the join line: {found}")
    made = JoinLine(
        servers=tuple(servers.split(",")),
        job=said["job"],
        is_tls=said.get("tls") == "1",
        url_prefix=said.get("prefix", ""),
        token=said.get("token", ""),
        is_token_over_http=said.get("http") == "1",
        ca_der=_der(said.get("ca", "")),
        protection=_protection(said.get("protection")),
    )
    if made.fingerprint != said.get("ca_sha256", ""):
        raise CallerProtocolError("the join line: ca and ca_sha256 do not belong together")
    return made


def _protection(text: str | None) -> str:
    """A requirement that is not understood is refused, not left out."""
    if text is None:
        return ""
    try:
        return Protection.parse(text).text()
    except CallerProtocolError:
        # What was found is not shown: in a damaged line it may have the token in it.
        message = "the join line: protection is damaged, or nothing that this device knows"
        raise CallerProtocolError(message) from None


def _der(text: str) -> bytes:
    try:
        return base64.urlsafe_b64decode(text + "=" * (-len(text) % 4))
    except (ValueError, binascii.Error) as exc:
        raise CallerProtocolError("the join line: ca is damaged") from exc
