"""What a browser and the dispatch do with a candidate's server: a credential, the cookie that it becomes, the session that this opens."""

from typing import Any

from t3flow.gate.cell.server import Candidate, Failed
from t3flow.t3 import commands
from t3flow.t3 import http as t3_http
from t3flow.t3.unknown import Unknown


def mint(candidate: Candidate) -> str:
    """Return a pairing credential, as the dispatch gets it. Raises Failed."""
    credential = commands.credential(candidate.run_json(*commands.MINT))
    if not credential:
        raise Failed(f"`t3 {' '.join(commands.MINT[:3])}` prints no credential")
    return credential


def session(candidate: Candidate, cookie: str = "") -> dict[str, Any]:
    """Return the session document, as the holder of a cookie sees it. Raises Failed, and Unknown where the server has none."""
    found = candidate.get_json(t3_http.SESSION, {"Cookie": cookie} if cookie else None)
    if found is None:
        raise Unknown(f"this t3 tells of sessions in a way that this t3flow does not know: it has no {t3_http.SESSION}")
    return found


def exchange(candidate: Candidate, endpoints: list[str], credential: str, name: str) -> tuple[str, str]:
    """Return the endpoint that takes a credential, and the cookie of that name as it is sent back. Raises Failed."""
    for endpoint in endpoints:
        answer = candidate.http("POST", endpoint, t3_http.exchange_body(credential))
        if answer.status == 404:
            continue
        if answer.status != 200:
            raise Failed(f"POST {endpoint} answers {answer.status}")
        cookies = answer.cookies()
        if not cookies.get(name):
            raise Failed(f"POST {endpoint} sets no cookie {name}, but {', '.join(cookies) or 'none'}")
        return endpoint, f"{name}={cookies[name]}"
    raise Failed(f"no pairing endpoint answers ({', '.join(endpoints)}: all 404); see dispatch.pair_endpoints")


def check(candidate: Candidate, cookie: str) -> None:
    """Check that the session which a cookie opens is a good one. Raises Failed, Unknown."""
    if not t3_http.is_authenticated(session(candidate, cookie)):
        raise Failed("the session that the cookie opens is not authenticated")
