"""The thread that observes the host goes on after any failure, and logs each once."""

import threading
from types import SimpleNamespace
from typing import Any, cast

from t3flow.engine.journal import JournalError
from t3flow.host.host import Host
from t3flow.service import observer


def test_a_journal_that_fails_and_returns_does_not_end_it(log: list[str], monkeypatch: Any) -> None:
    stopping, observed, asked = threading.Event(), [], []

    def query(sql: str) -> list[tuple[Any, ...]]:
        asked.append(sql)
        if len(asked) <= 2:
            raise JournalError("the disk is away")
        return [(1.0,)]

    def observe(host: Host) -> None:
        observed.append(host)
        stopping.set()

    monkeypatch.setattr(observer, "POLL_SECONDS", 0.01)
    host = cast(Host, SimpleNamespace(journal=SimpleNamespace(query=query)))
    observer.keep_observed(host, stopping, observe)
    assert len(observed) == 1
    assert len([line for line in log if "the disk is away" in line]) == 1
