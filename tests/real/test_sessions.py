"""The hourly verify pairs with the real t3 and leaves no session behind."""

import sqlite3
import threading
from collections.abc import Callable
from contextlib import closing

import pytest
from playing import LEVEL52, patient, publish

from t3flow.host.host import open_host
from t3flow.host.pairing import opened_sessions
from t3flow.sandbox import real
from t3flow.sandbox.host import Sandbox
from t3flow.service import verifier


def live_sessions(box: Sandbox, user: str) -> set[str]:
    with closing(sqlite3.connect(box.database(user))) as connection:
        rows = connection.execute("select session_id from auth_sessions where revoked_at is null").fetchall()
    return {row[0] for row in rows}


@pytest.mark.timeout(600)
def test_a_verify_revokes_its_session(make_box: Callable[..., Sandbox], monkeypatch: pytest.MonkeyPatch) -> None:
    """The session is in the cookie, its owner's command revokes it, and the server accepts no request with it any more."""
    monkeypatch.setattr(verifier, "SETTLED_SECONDS", 0.0)
    box = patient(make_box, ["ada"])
    box.copy_databases({"ada": LEVEL52})
    before = live_sessions(box, "ada")
    box.start_registry()
    publish(box)
    box.install(real.VERSION)
    box.start_servers()
    host = open_host(box.settings, box.journal)
    opened = set(opened_sessions.opened(host.journal)["ada"])
    assert opened
    assert live_sessions(box, "ada") >= opened, "the ids in the cookies are those of the database"
    work = verifier.Verifier(host, threading.Event())
    for _ in range(4):
        work.advance()
    assert opened_sessions.opened(host.journal) == {}
    assert live_sessions(box, "ada") == before
