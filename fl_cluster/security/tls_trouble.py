"""Why a TLS handshake failed, in one sentence, for each of its two ends.

OpenSSL's words name the rule that was broken; what people need is which file or address to
change.  Imports nothing of ours, because devices use it too.
"""

from __future__ import annotations

import ssl
import time
from collections.abc import Mapping

EXPIRED, NOT_YET = 10, 9
UNTRUSTED = frozenset({2, 18, 19, 20, 21})
OTHER_NAME = frozenset({62, 64})
REVOKED = 23
NO_LIST, LIST_EXPIRED = 3, 12
WRONG_PURPOSE = 26
WEAK = frozenset({66, 67, 68})
"""X509_V_ERR numbers of OpenSSL."""

NOT_TLS = frozenset(
    {
        "WRONG_VERSION_NUMBER",
        "HTTP_REQUEST",
        "UNKNOWN_PROTOCOL",
        "RECORD_LAYER_FAILURE",
        "PACKET_LENGTH_TOO_LONG",
        "BAD_RECORD_TYPE",
    }
)
"""What OpenSSL says when the other end does not speak TLS at all."""

NO_VERSION = (
    "there is no version of TLS that both ends allow; links between processes of a cluster are"
    " TLS 1.3, all else 1.2 or 1.3"
)
"""Which port it was is not known here."""

ALERTS: Mapping[str, str] = {
    "TLSV1_ALERT_UNKNOWN_CA": "it does not know the authority of the certificate shown to it;"
    " both ends need the same CA certificate",
    "SSLV3_ALERT_CERTIFICATE_EXPIRED": "to it the certificate shown to it has expired: renew it,"
    " or set its clock",
    "SSLV3_ALERT_CERTIFICATE_REVOKED": "the certificate shown to it was revoked",
    "SSLV3_ALERT_BAD_CERTIFICATE": "the certificate shown to it is not for the name it asked for,"
    " or not valid yet by its clock",
    "SSLV3_ALERT_CERTIFICATE_UNKNOWN": "it does not accept the certificate shown to it: it trusts"
    " another CA, asked for another name, or its clock is off",
    "SSLV3_ALERT_UNSUPPORTED_CERTIFICATE": "the certificate shown to it is not meant for this use",
    "TLSV13_ALERT_CERTIFICATE_REQUIRED": "it asks for a certificate and none was shown",
    "TLSV1_ALERT_PROTOCOL_VERSION": NO_VERSION,
    "SSLV3_ALERT_HANDSHAKE_FAILURE": "there is no cipher that both ends allow",
    "TLSV1_ALERT_INSUFFICIENT_SECURITY": "there is no cipher that both ends allow",
}
"""What the other end said, by OpenSSL's name, and what it means."""

OWN_REASONS: Mapping[str, str] = {
    "PEER_DID_NOT_RETURN_A_CERTIFICATE": "it showed no certificate, and this port asks for one",
    "UNSUPPORTED_PROTOCOL": NO_VERSION,
    "NO_SHARED_CIPHER": "there is no cipher that both ends allow (ssl.cipher_list)",
    "UNEXPECTED_EOF_WHILE_READING": "it ended the connection in the middle of the handshake",
}


def find_tls_error(fault: BaseException | None) -> ssl.SSLError | None:
    """The TLS error that `fault` is, or was caused by."""
    for _ in range(8):
        # What the HTTP library wraps it in is a TLS error by name, without anything inside.
        inner = getattr(fault, "certificate_error", None) or getattr(fault, "os_error", None)
        if inner is None and (isinstance(fault, ssl.SSLError) or fault is None):
            return fault
        assert fault is not None, "nothing has nothing inside"
        fault = inner or fault.__cause__ or fault.__context__
    return None


def is_cut_off(fault: BaseException) -> bool:
    """Whether the connection just ended, without a word of TLS about why."""
    found = find_tls_error(fault)
    if found is None:
        return True
    return isinstance(found, ssl.SSLEOFError) or _reason(found) == "UNEXPECTED_EOF_WHILE_READING"


def has_given_up(fault: ssl.SSLError) -> bool:
    """Whether the other end said that it goes no further."""
    return "_ALERT_" in _reason(fault)


def _reason(fault: ssl.SSLError) -> str:
    """OpenSSL's name for it; event loops make errors of their own, which have none."""
    return getattr(fault, "reason", None) or ""


def explain_outgoing(fault: BaseException) -> str:
    """What went wrong when we connected to a TLS server; empty when it is not about TLS."""
    found = find_tls_error(fault)
    if found is None:
        return ""
    if isinstance(found, ssl.SSLCertVerificationError):
        return f"its certificate is refused: {_refused(found)}"
    reason = _reason(found)
    if reason in NOT_TLS:
        return "it does not speak TLS there: its port is plain, or another program's"
    if reason in ALERTS:
        return f"it refused this connection: {ALERTS[reason]}"
    if is_cut_off(found):
        return "it closed the connection during the TLS handshake: is that a TLS port?"
    return f"TLS failed: {OWN_REASONS.get(reason) or reason or found}"


def explain_incoming(fault: BaseException) -> str:
    """What went wrong when somebody connected to our TLS port."""
    found = find_tls_error(fault)
    if found is None:
        return f"the TLS handshake did not end: {str(fault) or type(fault).__name__}"
    if isinstance(found, ssl.SSLCertVerificationError):
        return f"its certificate is refused: {_refused(found)}"
    reason = _reason(found)
    if reason in NOT_TLS:
        return "it speaks plain text, and this port speaks TLS: https:// is meant"
    if reason in ALERTS:
        return f"it refused this server: {ALERTS[reason]}"
    return f"TLS failed: {OWN_REASONS.get(reason) or reason or found}"


def _refused(fault: ssl.SSLCertVerificationError) -> str:
    code = fault.verify_code
    clock = time.strftime("%Y-%m-%d %H:%M UTC", time.gmtime())
    if code == EXPIRED:
        return f"it has expired (this host's clock says {clock})"
    if code == NOT_YET:
        return f"it is not valid yet; this host's clock says {clock}: one of the two clocks is off"
    if code in UNTRUSTED:
        return "it does not come from the CA that is trusted here (wrong CA certificate)"
    if code in OTHER_NAME:
        return f"it is for another host ({fault.verify_message.rstrip('.')})"
    if code == REVOKED:
        return "it was revoked"
    if code == NO_LIST:
        return "there is no revocation list of its issuer here"
    if code == LIST_EXPIRED:
        return f"the revocation list here is out of date (this host's clock says {clock})"
    if code == WRONG_PURPOSE:
        return "it is not meant for this side of TLS by its extended key usage"
    if code in WEAK:
        return f"it is too weak ({fault.verify_message})"
    return fault.verify_message or str(fault)
