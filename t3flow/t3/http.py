"""The names of t3's HTTP endpoints and the meaning of their responses. This module sends no request; callers bring their own bounded client."""

from typing import Any

from t3flow.t3.unknown import Unknown

ENVIRONMENT = "/.well-known/t3/environment"
SESSION = "/api/auth/session"
EXCHANGES = ["/api/auth/browser-session", "/api/auth/bootstrap"]
"""Endpoints that exchange a pairing credential for a cookie. On 404, try the next one."""


def served_version(environment: dict[str, Any]) -> str:
    """Return the server's version from the environment document, or "" if it names none."""
    said = environment.get("serverVersion")
    return said if isinstance(said, str) else ""


def cookie_name(session: dict[str, Any]) -> str:
    """Return the name of the session cookie, which depends on generation, address and user, from the session document. Raises Unknown."""
    auth = session.get("auth")
    name = auth.get("sessionCookieName") if isinstance(auth, dict) else None
    if not isinstance(name, str) or not name or not name.isascii() or any(each in name for each in " \t\r\n;,="):
        raise Unknown(f"this t3 does not say what its session cookie is called: GET {SESSION} names none")
    return name


def is_authenticated(session: dict[str, Any]) -> bool:
    """Return whether the session document belongs to a paired browser."""
    return session.get("authenticated") is True


def exchange_body(credential: str) -> dict[str, str]:
    """Return the JSON body of a request to an exchange endpoint."""
    return {"credential": credential}
