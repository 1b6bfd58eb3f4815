"""Measured durations decide time limits: the gate's for a start in place, the last snapshot's for a stop."""

from collections.abc import Callable

from t3flow.host.backups import durations, store
from t3flow.host.host import Host
from t3flow.host.records import tables

NEXT, LATER = "0.0.25-nightly.20260609.501", "0.0.25-nightly.20260610.502"


def test_what_the_gate_measured_decides_in_place(bare: Callable[..., Host]) -> None:
    """The limit is the start on the user's own databases with a margin, otherwise the slowest start of any user, and never below the settings."""
    host = bare(("ada", "grace"))
    least = max(host.settings.dispatch.verify_timeout_s, host.settings.gate.start_timeout_s)
    assert durations.start_limit(host, "ada", NEXT) == least, "a journal that has no such table yet"
    assert not tables.has_table(host.journal, "measured")
    durations.note_start(host.journal, "ada", NEXT, 40.0)
    durations.note_start(host.journal, "grace", NEXT, 1.0)
    assert durations.start_limit(host, "ada", NEXT) == 40 * durations.LOAD_FACTOR
    assert durations.start_limit(host, "grace", NEXT) == least
    assert durations.start_limit(host, "ken", NEXT) == 40 * durations.LOAD_FACTOR
    assert durations.start_limit(host, "ada", LATER) == least
    durations.note_start(host.journal, "ada", NEXT, 20.0)
    assert durations.start_limit(host, "ada", NEXT) == 20 * durations.LOAD_FACTOR, "the newest counts"


def test_old_measurements_are_removed(bare: Callable[..., Host]) -> None:
    host = bare()
    for number in range(50):
        durations.note_start(host.journal, "ada", f"0.0.{number}", 1.0)
    with host.journal.transaction() as connection:
        connection.execute("update measured set at = at - ?", (2 * durations.KEPT_SECONDS,))
    durations.note_start(host.journal, "ada", NEXT, 1.0)
    assert host.journal.query("select count(*) from measured") == [(1,)]


def test_the_duration_of_a_snapshot_is_noted(bare: Callable[..., Host]) -> None:
    """Only a new snapshot counts: one that is returned or linked again says nothing about how long a new one takes."""
    host = bare()
    assert durations.snapshot_seconds(host.journal, "ada") == 0.0
    first = store.take(host, "ada", written_by="0.0.24", version=NEXT, run="bump-1")
    seconds = durations.snapshot_seconds(host.journal, "ada")
    assert seconds > 0
    assert store.take(host, "ada", written_by="0.0.24", version=NEXT, run="bump-2").path == first.path
    assert store.take(host, "ada", written_by="0.0.24", version=LATER, run="bump-3").path != first.path
    assert durations.snapshot_seconds(host.journal, "ada") == seconds
