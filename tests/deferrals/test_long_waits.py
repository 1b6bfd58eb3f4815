"""A wait that never ends is logged: after many checks or days for the same cause, once a day."""

from collections.abc import Callable

import pytest

from t3flow.deferrals import long_waits
from t3flow.host.host import Host


@pytest.fixture
def host(bare: Callable[..., Host]) -> Host:
    return bare()


def said(log: list[str]) -> int:
    """Return how often the alert's words are in the log."""
    return "".join(log).count(long_waits.MARK)


def test_many_checks_for_one_cause_are_said_once(host: Host, log: list[str]) -> None:
    for _ in range(long_waits.OLD_CHECKS - 1):
        long_waits.note(host.journal, "ada", "running_process", "below the server runs vim (pid 7)")
    assert (said(log), long_waits.old(host.journal)) == (0, {})
    for _ in range(50):
        long_waits.note(host.journal, "ada", "running_process", "below the server runs vim (pid 7)")
    assert said(log) == 1
    assert list(long_waits.old(host.journal)) == ["ada"]
    long_waits.forget(host.journal, "ada")
    long_waits.forget(host.journal, "ada")
    assert long_waits.old(host.journal) == {}


def test_days_for_one_cause_are_said(host: Host, log: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    """Few checks in a short window are a long wait too; the closed window between them is no cause."""
    now = 1_000_000.0
    monkeypatch.setattr(long_waits.time, "time", lambda: now)
    for day in range(9):
        long_waits.note(host.journal, "ada", "running_process", "vim")
        long_waits.note(host.journal, "ada", "window", "the window is 01:00-05:40")
        assert said(log) == max(0, day - 2), day
        now += 86401


def test_another_cause_begins_anew(host: Host) -> None:
    for number in range(3 * long_waits.OLD_CHECKS):
        long_waits.note(host.journal, "ada", ("active_turn", "quiet_period")[number % 2], "")
    assert long_waits.old(host.journal) == {}


@pytest.mark.parametrize(
    ("cause", "command"),
    [
        ("running_process", r"t3flow enqueue drain 'CORP\ada' --ignore-processes 'CORP\ada'"),
        ("unreadable_state", "t3flow status"),
        ("active_turn", "t3flow status"),
    ],
)
def test_the_command_helps_with_the_cause(host: Host, log: list[str], cause: str, command: str) -> None:
    """To ignore processes does nothing for another cause."""
    for _ in range(long_waits.OLD_CHECKS):
        long_waits.note(host.journal, "CORP\\ada", cause, "")
    assert "".join(log).rstrip().endswith(command)
