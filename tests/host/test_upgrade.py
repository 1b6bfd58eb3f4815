"""A journal of an earlier release, in which a set was one file: nothing is lost, and that release can read it again."""

import json
import sqlite3
from collections.abc import Callable
from contextlib import closing
from pathlib import Path

import pytest
from conftest import DATA

from t3flow.engine.journal import Journal
from t3flow.gate.trials import files_of
from t3flow.host import pruning
from t3flow.host.backups import replaced, restoring, store
from t3flow.host.host import Host, open_host
from t3flow.host.records import catalog, deferral_records, facts, rejections, version_schemas
from t3flow.service.consumer import open_journal

FIRST, NEXT, LATER = "0.0.24", "0.0.25-nightly.20260609.501", "0.0.25-nightly.20260610.502"
FORMER_COLUMNS = "insert or replace into backups values (?, ?, ?, ?, ?, ?, ?, ?)"
"""How the earlier t3flow records a snapshot."""


@pytest.fixture
def host(bare: Callable[..., Host]) -> Host:
    """Provide a host with users, databases, and the journal and snapshots of the earlier release."""
    fresh = bare(("ada", "grace"))
    path = fresh.journal.path
    for suffix in ("", "-wal", "-shm"):
        path.with_name(f"{path.name}{suffix}").unlink(missing_ok=True)
    top = fresh.settings.paths.backup_dir
    text = (DATA / "journal-before-sets.sql").read_text().replace("/var/backups/t3-state", str(top))
    with closing(sqlite3.connect(path)) as connection:
        connection.executescript(text)
    (top / "ada").mkdir(parents=True)
    found = open_host(fresh.settings, open_journal(fresh.settings, create=True))
    for entry in catalog.backups(found.journal):
        Path(entry.path).write_bytes(store.database_path(found, "ada").read_bytes())
    return found


def tables(journal: Journal) -> set[str]:
    return {name for (name,) in journal.query("select name from sqlite_master where type = 'table'")}


def test_all_that_was_noted_is_read(host: Host) -> None:
    assert {"backup_sets", "schemas"}.isdisjoint(tables(host.journal)), "reading changes nothing"
    [pending] = deferral_records.deferrals(host.journal)
    assert (pending.user, pending.version, pending.waiting_for) == ("grace", NEXT, "active_turn")
    first, second = catalog.backups(host.journal, "ada")
    assert (first.written_by, first.version, first.level, first.fingerprint) == (FIRST, NEXT, 30, None)
    assert (second.written_by, second.is_complete, second.schema, second.rows) == (NEXT, False, {}, {})
    assert list(first.paths) == ["state.sqlite"]
    assert rejections.rejected_for(host.journal, "0.0.25-nightly.20260608.400") == ["ada"]
    assert replaced.versions_needed(host.journal) <= {NEXT}
    assert version_schemas.level_of_version(host.journal, NEXT) == 32
    assert version_schemas.schema_of_version(host.journal, NEXT) is None, "a level alone proves nothing"


def test_the_next_snapshot_stands_beside_the_former_ones(host: Host) -> None:
    """Also if the earlier release was killed after it recorded a file in the former way."""
    left = Path(facts.read(host.journal, store.TAKING + "ada"))
    left.write_text("half")
    made = store.take(host, "ada", written_by=LATER, version="0.0.26", run="run-1")
    assert not left.exists()
    assert [entry.is_complete for entry in catalog.backups(host.journal, "ada")] == [False, False, True]
    assert catalog.backup_at(host.journal, made.path) == made
    for entry in catalog.backups(host.journal, "ada"):
        assert entry.exists
    restoring.restore(host, "ada", catalog.backups(host.journal, "ada")[0], "replaced-1")
    store.drop(host, made)
    assert len(catalog.backups(host.journal, "ada")) == 2
    pruning.prune(host)
    assert deferral_records.deferral(host.journal, "grace") is not None


def test_the_earlier_t3flow_could_take_it_up_again(host: Host) -> None:
    """Its statements fit the tables: after a downgrade, the earlier release can read and write the journal."""
    store.take(host, "ada", written_by=LATER, version="0.0.26", run="run-1")
    with host.journal.transaction() as connection:
        connection.execute(
            FORMER_COLUMNS, ("/x/y.sqlite", "ada", LATER, "0.0.27", 32, json.dumps([[1, 2, 3], None]), 2e9, "r")
        )
    newest = catalog.backups(host.journal, "ada")[-1]
    assert (newest.path, newest.is_complete, newest.fingerprint) == ("/x/y.sqlite", False, None)
    again = open_journal(host.settings, create=True)
    assert len(catalog.backups(again)) == 4


def test_a_run_in_flight_has_snapshots_of_one_file(host: Host) -> None:
    [run] = host.journal.runs("status = 'running'")
    [done] = [
        event.data["result"]
        for event in host.journal.events(run.id)
        if (event.kind, event.step) == ("completed", "back_up")
    ]
    assert "files" not in done
    assert files_of(done) == {"state.sqlite": done["path"]}
