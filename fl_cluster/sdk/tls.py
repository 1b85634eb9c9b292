"""How a device knows the servers of an https URL, and what it shows them if they ask.

Without anything of this the roots of the system are asked, as for any web site.
"""

from __future__ import annotations

import hashlib
import ssl
from pathlib import Path

from fl_cluster.errors import CallerProtocolError


def tls_context(
    ca_file: str | Path | None = None,
    *,
    ca_sha256: str = "",
    certificate: str | Path | None = None,
    key: str | Path | None = None,
    key_password: str = "",
) -> ssl.SSLContext:
    """The context for `FederatedDevice(tls=...)`; CallerProtocolError names a bad file.

    `ca_file` holds the authority of the servers' certificates, PEM (None: the system's roots);
    with `ca_sha256`, its fingerprint as `fl-cluster certs show` has it, another file is refused.
    `certificate` and `key` are what a proxy in front of the servers may ask for.
    """
    context = ssl.create_default_context() if ca_file is None else _knowing(ca_file, ca_sha256)
    if ca_file is None and ca_sha256:
        raise CallerProtocolError("ca_sha256: it is compared with ca_file, which is not given")
    if certificate is not None:
        try:
            context.load_cert_chain(certificate, key, key_password)
        except (ssl.SSLError, OSError) as exc:
            reason = getattr(exc, "reason", None) or exc.strerror or exc
            raise CallerProtocolError(
                f"certificate {certificate}: cannot be used with its key ({reason})"
            ) from exc
    return context


def _knowing(ca_file: str | Path, fingerprint: str) -> ssl.SSLContext:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    try:
        text = Path(ca_file).read_text("ascii")
        context.load_verify_locations(cadata=text)
    except (ValueError, OSError) as exc:
        reason = getattr(exc, "strerror", None) if not isinstance(exc, ssl.SSLError) else None
        raise CallerProtocolError(
            f"ca_file {ca_file}: {reason or 'expected a certificate in PEM'}"
        ) from exc
    wanted = fingerprint.lower().replace(":", "")
    known = [hashlib.sha256(der).hexdigest() for der in context.get_ca_certs(binary_form=True)]
    if not known:
        raise CallerProtocolError(f"ca_file {ca_file}: expected the certificate of an authority")
    if wanted and wanted not in known:
        raise CallerProtocolError(
            f"ca_file {ca_file}: its SHA-256 is {known[0]}, expected {wanted}: it is another"
            " authority's"
        )
    return context
