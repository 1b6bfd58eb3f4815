"""A systemctl that cannot reach systemd for a moment says nothing about a unit. tests/box uses the real one."""

import time
from pathlib import Path

import pytest

from t3flow.host.children import Children
from t3flow.host.services import systemd as backend
from t3flow.host.services.manager import ServiceError
from t3flow.host.services.systemd import Systemd

FAILS = """#!/bin/sh
echo x >> {calls}
[ "$(wc -l < {calls})" -gt {times} ] || {{ echo "{says}" >&2; exit 1; }}
echo "ActiveState=active
SubState=running
MainPID=42
LoadState=loaded
ExecMainStartTimestamp=@7"
"""


def systemd_that(says: str, times: int, top: Path, monkeypatch: pytest.MonkeyPatch) -> tuple[Systemd, Path]:
    """Return services whose systemctl fails so often with this text and then succeeds, and the file that counts its calls."""
    calls = top / "calls"
    (top / "systemctl").write_text(FAILS.format(calls=calls, times=times, says=says))
    (top / "systemctl").chmod(0o755)
    monkeypatch.setenv("PATH", f"{top}:/usr/bin:/bin")
    return Systemd(Children(top / "lock"), "t3-serve@{user}.service"), calls


@pytest.mark.parametrize(
    "says",
    [
        "Failed to get properties: Transport endpoint is not connected",
        "Failed to connect to bus: No such file or directory",
        "Failed to get properties: Connection timed out",
    ],
)
def test_systemd_that_is_away_is_asked_again(says: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Right after a boot, this rolled back a healthy version."""
    systemd, calls = systemd_that(says, 2, tmp_path, monkeypatch)
    found = systemd.state("ada")
    assert (found.active, found.main_pid, found.started_wall) == (True, 42, 7.0)
    assert len(calls.read_text().splitlines()) == 3


def test_a_word_about_the_unit_is_believed_at_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A failed start is not retried. A unit that is not loaded, and so has no failures to clear, is started all the same."""
    systemd, calls = systemd_that("Job for t3-serve@ada.service failed.", 9, tmp_path, monkeypatch)
    with pytest.raises(ServiceError, match="failed"):
        systemd.start("ada")
    assert len(calls.read_text().splitlines()) == 2


def test_a_start_and_a_stop_ask_systemd_once_each(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What comes between them is an outage of the user. Many users are surveyed by one call."""
    systemd, calls = systemd_that("", 0, tmp_path, monkeypatch)
    server = systemd.state("ada")
    calls.write_text("")
    systemd.stop("ada", server)
    systemd.start("ada")
    assert len(calls.read_text().splitlines()) == 2


def test_a_unit_that_systemd_refuses_to_start_is_reset(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As after too many starts; a start that works costs nothing more."""
    systemd, calls = systemd_that("start of the service was attempted too often", 1, tmp_path, monkeypatch)
    systemd.start("ada")
    assert len(calls.read_text().splitlines()) == 3


def test_systemd_that_stays_away_is_given_up(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """In bounded time, with its error."""
    monkeypatch.setattr(backend, "UNAVAILABLE_SECONDS", 1.0)
    systemd, _ = systemd_that("Failed to connect to bus: Connection refused", 99, tmp_path, monkeypatch)
    began = time.monotonic()
    with pytest.raises(ServiceError, match="Connection refused"):
        systemd.state("ada")
    assert time.monotonic() - began < 10
