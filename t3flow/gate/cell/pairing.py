"""Pair with the server under trial as the dispatch and a browser do: get a credential, exchange it for a cookie, check the session."""

from typing import Any

from t3flow.gate.cell.server import Failed, Server
from t3flow.t3 import commands
from t3flow.t3 import http as t3_http
from t3flow.t3.unknown import Unknown


def mint(server: Server) -> str:
    """Return a pairing credential, created as the dispatch does it. Raises Failed."""
    credential = commands.credential(server.run_json(*commands.MINT))
    if not credential:
        raise Failed(f"`t3 {' '.join(commands.MINT[:3])}` prints no credential")
    return credential


def session(server: Server, cookie: str = "") -> dict[str, Any]:
    """Return the session document, as seen with a cookie. Raises Failed, and Unknown if the server has no such document."""
    found = server.get_json(t3_http.SESSION, {"Cookie": cookie} if cookie else None)
    if found is None:
        raise Unknown(f"this t3 describes sessions in a way unknown to this t3flow: it has no {t3_http.SESSION}")
    return found


def exchange(server: Server, endpoints: list[str], credential: str, name: str) -> tuple[str, str]:
    """Return the endpoint that accepts a credential, and the cookie `name` in the form in which a browser sends it. Raises Failed."""
    for endpoint in endpoints:
        answer = server.http("POST", endpoint, t3_http.exchange_body(credential))
        if answer.status == 404:
            continue
        if answer.status != 200:
            raise Failed(f"POST {endpoint} returns {answer.status}")
        cookies = answer.cookies()
        if not cookies.get(name):
            raise Failed(f"POST {endpoint} does not set the cookie {name} but {', '.join(cookies) or 'none'}")
        return endpoint, f"{name}={cookies[name]}"
    raise Failed(f"no pairing endpoint exists ({', '.join(endpoints)}: all return 404); see dispatch.pair_endpoints")


def check(server: Server, cookie: str) -> None:
    """Check that the session of a cookie is authenticated. Raises Failed, Unknown."""
    if not t3_http.is_authenticated(session(server, cookie)):
        raise Failed("the session of the cookie is not authenticated")
