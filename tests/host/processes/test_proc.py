"""Processes in /proc: checks of many users share one walk."""

import os
import subprocess
import sys
from collections.abc import Callable

import pytest

from t3flow.host import management
from t3flow.host.host import Host
from t3flow.host.processes import listing

USERS = tuple(f"user{number}" for number in range(30))


def test_one_walk_serves_the_looks_at_many_users(bare: Callable[..., Host], monkeypatch: pytest.MonkeyPatch) -> None:
    """Also if each user is checked alone, as by 300 deferrals."""
    host = bare(USERS)
    walks = []
    walk = listing.pids_by_account
    monkeypatch.setattr(listing, "pids_by_account", lambda: walks.append(1) or walk())
    monkeypatch.setattr(management, "_walk", listing.SharedWalk(60.0))
    for user in USERS:
        management.server_processes(host, [user])
    assert len(walks) == 1


def test_a_server_of_another_unit_is_found_by_its_words(bare: Callable[..., Host]) -> None:
    host = bare(("ada", "grace"))
    words = ["serve", f"--base-dir={host.base_dir('grace')}"]
    child = subprocess.Popen(
        [sys.executable, "-c", "import time; print(flush=True); time.sleep(60)", *words], stdout=-1
    )
    try:
        assert child.stdout is not None
        child.stdout.readline()
        assert child.pid in listing.pids_of_account(os.geteuid())
        monkeyed = management.server_processes(host, ["ada", "grace"])
        assert monkeyed in ({}, {"grace": [child.pid]})
        management._walk = listing.SharedWalk(0.0)
        assert management.server_processes(host, ["ada", "grace"]) == {"grace": [child.pid]}
    finally:
        child.kill()
        child.communicate()


def test_an_account_has_its_processes_and_no_others() -> None:
    found = listing.pids_by_account()
    assert os.getpid() not in found.get(os.geteuid(), [])
    assert 1 in found.get(os.stat("/proc/1").st_uid, [])
