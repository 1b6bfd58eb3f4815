"""The thread that reads what other accounts ask for, on a host whose directory service is slow."""

from collections.abc import Callable

import pytest

from t3flow.host import host as hosts
from t3flow.host import state_dir
from t3flow.host.accounts import Account, account
from t3flow.host.host import Host
from t3flow.service.heartbeat import Heartbeats
from t3flow.service.wishes import Wishes


def test_a_slow_directory_service_starts_no_consumer_anew(
    bare: Callable[..., Host], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each look-up of an account takes seconds: for many users that is longer than a thread may be silent, so that systemd would kill the consumer."""
    host = bare(tuple(f"user{number}" for number in range(15)))
    state_dir.create_folders(host.settings.paths.state_dir)
    now = 1000.0
    heartbeats = Heartbeats(lambda: now)
    silent = []

    def look_up(user: str) -> Account:
        nonlocal now
        now += 5
        silent.extend(heartbeats.silent_threads())
        return account(user)

    heartbeats.beat("spools")
    monkeypatch.setattr(hosts, "account", look_up)
    Wishes(host, lambda run: None, lambda: heartbeats.beat("spools")).look()
    assert now >= 1000 + 15 * 5
    assert silent == []
