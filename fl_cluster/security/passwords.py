"""Passwords of key files: from the environment, from a file, or typed; never an argument.

Arguments can be read by every user of a host; a file and a terminal cannot.
"""

from __future__ import annotations

import getpass
from collections.abc import Mapping
from dataclasses import dataclass, field

from fl_cluster.errors import StartupError
from fl_cluster.security.watched_files import read_whole, refuse_when_readable_by_all

SERVER_VARIABLE = "FL_CLUSTER_SERVER_PASSWORD"
CLIENT_VARIABLE = "FL_CLUSTER_CLIENT_PASSWORD"


@dataclass(frozen=True, slots=True)
class Passwords:
    """Of the server's and of the client's key file; empty: not given."""

    server: str = field(default="", repr=False)
    client: str = field(default="", repr=False)

    @classmethod
    def of(
        cls, environ: Mapping[str, str], server_file: str = "", client_file: str = ""
    ) -> Passwords:
        """What a file says, else what the environment says; StartupError names a bad file."""
        return cls(
            _one(environ, SERVER_VARIABLE, server_file, "--server_password_file"),
            _one(environ, CLIENT_VARIABLE, client_file, "--client_password_file"),
        )

    def over(self, others: Passwords) -> Passwords:
        """These where they are given, else the others."""
        return Passwords(self.server or others.server, self.client or others.client)

    def environment(self) -> dict[str, str]:
        """The variables by which a child process gets them."""
        said = {SERVER_VARIABLE: self.server, CLIENT_VARIABLE: self.client}
        return {name: value for name, value in said.items() if value}

    def ask(self, *, server: bool, client: bool) -> Passwords:
        """With those that are wanted and missing typed at the terminal."""
        return Passwords(
            self.server or (_typed("server") if server else ""),
            self.client or (_typed("client") if client else ""),
        )


def _typed(name: str) -> str:
    return getpass.getpass(f"Password of the {name} certificate: ")


def read_password_file(path: str, what: str) -> str:
    """The first line of a file that only its owner may read; StartupError otherwise."""
    refuse_when_readable_by_all(path, what)
    try:
        text = read_whole(path, what).decode()
    except UnicodeDecodeError as exc:
        raise StartupError(f"{what} {path}: expected text") from exc
    password = text.partition("\n")[0].rstrip("\r")
    if not password:
        raise StartupError(f"{what} {path}: its first line is empty, expected a password")
    return password


def _one(environ: Mapping[str, str], variable: str, path: str, what: str) -> str:
    return read_password_file(path, what) if path else environ.get(variable, "")
