"""The problems of a host: which of them are the same at two times."""

from collections.abc import Callable
from typing import Any

from t3flow.host.host import Host
from t3flow.state import host as state
from t3flow.state.problems import SUBJECT_ENDS, identity, problems


def several(days: int, names: tuple[str, ...]) -> dict[str, Any]:
    """Return what a status has of hosts, runs, and channels with these names, seen so many days ago."""
    at = f"2026-06-{30 - days}T04:00:00+00:00"
    hosts = [{"host": name, "silent": True, "seen": at} for name in names]
    dropped = [{"place": name, "last": at, "reason": "forged", "is_current": True} for name in names]
    channels = [{"shown": name, "failing_since": at, "cause": f"error {days}", "dead": days} for name in names]
    fleet = {"stuck": [], "problem": "", "unreachable_since": None, "hosts": hosts, "dropped": dropped}
    return {"fleet": fleet, "newer_runs": list(names), "channels": channels}


def test_each_thing_of_a_host_has_its_own_problem(hosted: Callable[..., Host]) -> None:
    """For as long as it lasts: the text changes with the time that has passed, and with the cause."""
    host = hosted()
    found = state.collect(host.settings, host.journal, is_live=False)
    seen: list[set[tuple[str, str]]] = []
    for days in (1, 2):
        now: Any = {**found, **several(days, ("first", "second"))}
        seen.append({identity(each) for each in problems(now) if each["key"] in SUBJECT_ENDS})
    assert seen[0] == seen[1]
    assert sorted(kind for kind, _ in seen[0]) == sorted([*SUBJECT_ENDS, *SUBJECT_ENDS])
