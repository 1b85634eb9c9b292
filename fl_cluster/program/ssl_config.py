"""The passwords of a job's PKCS#12 files, which are never in a file that is read."""

from __future__ import annotations

from fl_cluster.program.check_type import check_int, check_str

CIPHER_LIST = (
    "ECDHE-RSA-AES128-GCM-SHA256:"
    "ECDHE-ECDSA-AES128-GCM-SHA256:"
    "ECDHE-RSA-AES256-GCM-SHA384:"
    "ECDHE-ECDSA-AES256-GCM-SHA384:"
    "ECDHE-RSA-CHACHA20-POLY1305:"
    "ECDHE-PSK-CHACHA20-POLY1305:"
    "ECDHE-ECDSA-AES128-CCM:"
    "ECDHE-ECDSA-AES256-CCM:"
    "ECDHE-ECDSA-CHACHA20-POLY1305"
)
EXPIRY_WARNING_DAYS = 90


class SSLConfig:
    """Passwords of the server's and of the client's PKCS#12 file; neither may be empty.

    A job uses the two passwords and takes everything else from the `ssl` section of its file;
    the other arguments are checked and kept, because programs pass them.  RuntimeError when an
    argument has not the type it should have.
    """

    server_cert_path: str
    client_cert_path: str
    ca_cert_path: str
    """The three paths exist only when they were given."""

    def __init__(
        self,
        server_password: str,
        client_password: str,
        server_cert_path: str | None = None,
        client_cert_path: str | None = None,
        ca_cert_path: str | None = None,
        crl_path: str | None = None,
        cipher_list: str = CIPHER_LIST,
        cert_expire_warning_time_in_day: int = EXPIRY_WARNING_DAYS,
    ) -> None:
        check_str("server_password", server_password)
        check_str("client_password", client_password)
        self.server_password = server_password
        self.client_password = client_password
        if server_cert_path is not None:
            check_str("server_cert_path", server_cert_path)
            self.server_cert_path = server_cert_path
        if client_cert_path is not None:
            check_str("client_cert_path", client_cert_path)
            self.client_cert_path = client_cert_path
        if ca_cert_path is not None:
            check_str("ca_cert_path", ca_cert_path)
            self.ca_cert_path = ca_cert_path
        self.crl_path = ""
        if crl_path is not None and crl_path != "":
            check_str("crl_path", crl_path)
            self.crl_path = crl_path
        self.cipher_list = cipher_list
        check_int("cert_expire_warning_time_in_day", cert_expire_warning_time_in_day)
        self.cert_expire_warning_time_in_day = cert_expire_warning_time_in_day

    def __repr__(self) -> str:
        return f"<{type(self).__name__}, passwords not shown>"


def check_ssl_config(ssl_config: object, expected: str) -> None:
    """RuntimeError unless it is None or an SSLConfig; `expected` is how the sentence goes on."""
    if ssl_config is not None and not isinstance(ssl_config, SSLConfig):
        raise RuntimeError(
            f"Parameter 'ssl_config' should be {expected}, but got {type(ssl_config)}"
        )
