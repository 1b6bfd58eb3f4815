"""What t3's HTTP endpoints are called and what their answers mean. No request is made here: callers bring their own bounded client."""

from typing import Any

from t3flow.t3.unknown import Unknown

ENVIRONMENT = "/.well-known/t3/environment"
SESSION = "/api/auth/session"
EXCHANGES = ["/api/auth/browser-session", "/api/auth/bootstrap"]
"""Where a pairing credential becomes a cookie; on 404 the next."""


def served_version(environment: dict[str, Any]) -> str:
    """Return the version of the code that answers, from the environment document; "" where it says none."""
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
    """Return whether the session document is that of somebody who has paired."""
    return session.get("authenticated") is True


def exchange_body(credential: str) -> dict[str, str]:
    """Return the body that an exchange endpoint takes, to be sent as JSON."""
    return {"credential": credential}
