"""The session that a pairing opens, and the command of t3 that revokes it.

A paired browser has no right to revoke sessions, not even its own, and t3 has no endpoint to log out. Its owner's command can. Builds from 0.0.42 on
have it; whether another build has it is asked of its help, since early builds take an unknown command for a folder and start a server there.
"""

import base64
import binascii
import json
import re

HELP = ("auth", "session", "--help")
"""Prints the commands for sessions. It opens no database."""
REVOKE = ("auth", "session", "revoke")
ENVIRONMENT = {"T3CODE_TELEMETRY_ENABLED": "false"}
"""For commands that t3flow runs for itself."""
ID = re.compile(r"[0-9A-Za-z][0-9A-Za-z_-]{7,63}")
OFFERS = re.compile(rb"^\s+revoke\s", re.MULTILINE)


def session_id(cookie: str) -> str:
    """Return the id of the session that a cookie's value belongs to, or "" if the value names none. The id opens nothing: t3 lists it in clear."""
    payload = cookie.partition(".")[0]
    try:
        found = json.loads(base64.urlsafe_b64decode(payload + "=" * (-len(payload) % 4)))
    except (ValueError, binascii.Error, RecursionError):
        return ""
    said = found.get("sid") if isinstance(found, dict) else None
    return said if isinstance(said, str) and ID.fullmatch(said) else ""


def offers_revocation(help_text: bytes) -> bool:
    """Return whether a build has the command, given what HELP printed."""
    return OFFERS.search(help_text) is not None


def revocation(base_dir: str, session: str) -> list[str]:
    """Return the words after the program that revoke a session. Idempotent: a second revocation also exits with status 0."""
    return [*REVOKE, "--base-dir", base_dir, session]
