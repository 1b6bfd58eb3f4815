"""The names and the output of t3's commands."""

import re
from typing import Any

VERSION = ("--version",)
SERVE = ("serve",)
MINT = ("auth", "pairing", "create", "--ttl", "5m")
MINTING = ("auth", "pair")
"""The first words of the commands that open the database beside the server and migrate it first."""

ISSUE = ("auth", "session", "issue")
"""Prints an owner's bearer token. Only for trials on scratch base directories."""

BEARER_KEYS = ("token", "sessionToken", "access_token", "accessToken")
ENDS_OF_A_STOP = (130, 143)
"""Exit statuses of a server that was asked to stop."""

STARTED = re.compile(r"^Token: (\S+)\s*$", re.MULTILINE)
"""A ready server prints a pairing credential to its output."""


def startup_credential(output: str) -> str:
    """Return the pairing credential that a server printed at its start; "" for none."""
    found = STARTED.search(output)
    return found.group(1) if found else ""


def version_line(version: str) -> str:
    """Return what `t3 --version` prints. With a wrong Node it prints nothing and exits with status 0, so callers must compare the output."""
    return f"t3 v{version}"


def serve(host: str, port: int, base_dir: str) -> list[str]:
    """Return the words after the program that start a server."""
    return [*SERVE, "--host", host, "--port", str(port), "--base-dir", base_dir]


def credential(minted: dict[str, Any]) -> str:
    """Return the pairing credential that a minting printed; "" for none."""
    said = minted.get("credential")
    return said if isinstance(said, str) else ""


def bearer(issued: dict[str, Any]) -> str:
    """Return the bearer token that `auth session issue` printed; "" for none."""
    return next((issued[key] for key in BEARER_KEYS if isinstance(issued.get(key), str)), "")
