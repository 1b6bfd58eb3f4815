"""Tables that replaced facts of an earlier release: written row by row, and filled once from those facts."""

import json
import sqlite3
import time
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

from t3flow.engine.journal import Journal
from t3flow.host.backups import replaced
from t3flow.host.pairing import last_pairings, own_activity
from t3flow.host.records import deferral_records, rejections, tables, version_schemas

NOW = time.time()
FORMER: dict[str, Any] = {
    "pairing": {"ada": {"since": 5.0, "reason": ""}, "grace": {"since": 7.0, "reason": "the dispatch said 502"}},
    "kept": {"ada/replaced-20990101T000000Z": "0.0.24", "grace/replaced-20000101T000000Z": "0.0.23"},
    "levels": {"0.0.24": 30, "0.0.25": 32},
    "untried": {"grace": "0.0.25"},
    "rejected_for": {"0.0.25": ["grace", "ada"], "0.0.26": []},
    "ours:ada": [[NOW - 50, NOW - 40], [NOW - 5, None]],
    "pin": "0.0.24",
}


@pytest.fixture
def journal(tmp_path: Path) -> Journal:
    """Provide a journal as an earlier release left it: facts, and none of the tables."""
    extra = tables.SCHEMA.replace(tables.LATER_TABLES.lstrip(), "")
    made = Journal(tmp_path / "journal.db", create=True, extra_schema=extra)
    put(made, FORMER)
    return made


def put(journal: Journal, facts: dict[str, Any]) -> None:
    with journal.transaction() as connection:
        for key, value in facts.items():
            connection.execute("insert or replace into facts values (?, ?)", (key, json.dumps(value)))


def keys(journal: Journal) -> set[str]:
    return {str(key) for (key,) in journal.query("select key from facts")}


def look(journal: Journal) -> dict[str, Any]:
    """Run every query on the tables."""
    return {
        "pairings": last_pairings.pairings(journal),
        "kept": replaced.recorded_versions(journal),
        "needed": replaced.versions_needed(journal),
        "noted": replaced.is_recorded(journal, "grace", "replaced-20000101T000000Z"),
        "levels": [version_schemas.level_of_version(journal, version) for version in ("0.0.24", "0.0.25", "0.0.26")],
        "untried": [rejections.is_untried(journal, user, "0.0.25") for user in ("ada", "grace")],
        "rejected_for": [rejections.rejected_for(journal, version) for version in ("0.0.25", "0.0.26", "0.0.27")],
        "ours": [own_activity.is_own(journal, "ada", NOW + at, NOW + at) for at in (-60, -45, -20, 0)],
        "of others": own_activity.is_own(journal, "grace", NOW, NOW),
    }


EXPECTED = {
    "pairings": FORMER["pairing"],
    "kept": {("ada", "replaced-20990101T000000Z"): "0.0.24", ("grace", "replaced-20000101T000000Z"): "0.0.23"},
    "needed": {"0.0.24"},
    "noted": True,
    "levels": [30, 32, None],
    "untried": [False, True],
    "rejected_for": [["ada", "grace"], [], []],
    "ours": [False, True, False, True],
    "of others": False,
}


def test_a_look_reads_the_former_facts_and_changes_nothing(journal: Journal) -> None:
    assert look(journal) == EXPECTED
    assert keys(journal) == set(FORMER)
    assert not tables.has_table(journal, "pairings")


def test_they_are_taken_over_once(journal: Journal) -> None:
    tables.migrate_facts(journal)
    assert look(journal) == EXPECTED
    assert keys(journal) == {"pin"}
    tables.migrate_facts(journal)
    assert look(journal) == EXPECTED


@pytest.mark.parametrize(
    "write",
    [
        lambda journal: last_pairings.note_pairing(journal, "linus", ""),
        lambda journal: replaced.note(journal, "linus", "replaced-20990101T000000Z", "0.0.24"),
        lambda journal: version_schemas.note_level(journal, "0.0.27", 33),
        lambda journal: rejections.note_untried(journal, "0.0.27", ["linus"]),
        lambda journal: rejections.reject(journal, "0.0.27", "bad", ["linus"]),
        lambda journal: own_activity.note_restart(journal, "linus"),
    ],
    ids=["pairing", "kept", "level", "untried", "rejection", "ours"],
)
def test_any_write_takes_over_all(journal: Journal, write: Any) -> None:
    write(journal)
    assert keys(journal) == {"pin"}
    found = look(journal)
    assert found["pairings"].items() >= EXPECTED["pairings"].items()  # type: ignore[attr-defined]
    assert found["untried"] == EXPECTED["untried"]
    assert found["ours"] == EXPECTED["ours"]


def test_what_dies_on_the_way_has_taken_nothing(journal: Journal) -> None:
    def die() -> None:
        with tables.transaction(journal) as connection:
            connection.execute("delete from levels")
            raise RuntimeError

    with pytest.raises(RuntimeError):
        die()
    assert keys(journal) == set(FORMER)
    assert look(journal) == EXPECTED


def test_an_earlier_t3flow_that_comes_back_writes_its_facts_beside(journal: Journal) -> None:
    """After a downgrade, the earlier release finds no facts and starts over; what it writes is migrated later, and nothing else is lost."""
    tables.migrate_facts(journal)
    put(
        journal,
        {"pairing": {"ada": {"since": 99.0, "reason": "no"}}, "kept": {"ken/replaced-20990101T000001Z": "0.0.22"}},
    )
    tables.migrate_facts(journal)
    found = look(journal)
    assert found["pairings"]["ada"] == {"since": 99.0, "reason": "no"}
    assert found["pairings"]["grace"] == FORMER["pairing"]["grace"]
    assert found["needed"] == {"0.0.24", "0.0.22"}
    assert keys(journal) == {"pin"}


def test_a_fact_that_is_damaged_stops_nothing(journal: Journal) -> None:
    put(journal, {"pairing": {"ada": {"since": 1}}, "rejected_for": 7, "ours:ada": [[1]]})
    tables.migrate_facts(journal)
    assert keys(journal) == {"pin"}
    assert last_pairings.pairings(journal) == {}
    assert replaced.versions_needed(journal) == {"0.0.24"}


@pytest.mark.parametrize(
    "write",
    [
        lambda journal: rejections.reject(journal, "0.0.27", "bad", ["linus", "ken"]),
        lambda journal: rejections.unreject(journal, "0.0.25"),
        lambda journal: rejections.note_untried(journal, "0.0.27", ["linus", "ken"]),
    ],
    ids=["reject", "unreject", "untried"],
)
def test_what_belongs_together_is_one_commit(journal: Journal, write: Any) -> None:
    """A rejection and its users were two commits once: a kill in between rejected the version for the wrong users."""
    tables.migrate_facts(journal)
    commits: list[int] = []
    with closing(sqlite3.connect(journal.path)) as other:
        before = other.execute("pragma data_version").fetchone()[0]
        original = journal.transaction
        counted = iter(range(99))

        def counting(**more: Any) -> Any:
            commits.append(next(counted))
            return original(**more)

        journal.transaction = counting  # type: ignore[method-assign]
        write(journal)
        assert other.execute("pragma data_version").fetchone()[0] != before
    assert len(commits) == 1


def test_a_rejection_names_those_of_the_last_time(journal: Journal) -> None:
    rejections.reject(journal, "0.0.25", "bad for linus", ["linus"])
    assert rejections.rejected_for(journal, "0.0.25") == ["linus"]
    rejections.unreject(journal, "0.0.25")
    assert rejections.rejected_for(journal, "0.0.25") == []
    assert "0.0.25" not in rejections.rejected(journal)


def test_a_pairing_keeps_since_when_it_goes_so(journal: Journal) -> None:
    last_pairings.note_pairing(journal, "grace", "another reason")
    assert last_pairings.pairings(journal)["grace"] == {"since": 7.0, "reason": "another reason"}
    last_pairings.note_pairing(journal, "grace", "")
    since = last_pairings.pairings(journal)["grace"]["since"]
    assert since >= NOW
    last_pairings.note_pairing(journal, "grace", "")
    assert last_pairings.pairings(journal)["grace"]["since"] == since


def test_one_row_costs_the_same_among_many(journal: Journal) -> None:
    """Each pairing rewrote those of all users once."""

    def written(user: str) -> int:
        log = journal.path.with_name("journal.db-wal")
        journal.query("pragma wal_checkpoint(truncate)")
        last_pairings.note_pairing(journal, user, "it failed")
        return log.stat().st_size

    few = written("user0")
    for number in range(1000):
        last_pairings.note_pairing(
            journal, f"user{number}", "the server did not answer within 30 seconds, and this is why: " + "x" * 100
        )
    assert written("user500") <= few + 2 * 4096 + 100


def test_what_is_untried_for_a_deferral_survives_a_later_version(journal: Journal) -> None:
    """A gate that passes, as in a dry run, notes its version for the same user; the drain to the earlier one must try that first all the same.

    Versions that the user is not deferred to are forgotten, so that nothing grows.
    """
    deferral_records.put_deferral(journal, "linus", "drain-1", "0.0.27", "host_busy", NOW)
    for version in ("0.0.26", "0.0.27", "0.0.28", "0.0.29"):
        rejections.note_untried(journal, version, ["linus"])
    untried = {
        version
        for version in ("0.0.26", "0.0.27", "0.0.28", "0.0.29")
        if rejections.is_untried(journal, "linus", version)
    }
    assert untried == {"0.0.27", "0.0.29"}
    assert journal.query("select count(*) from untried_versions")[0][0] == 2
    rejections.note_tried(journal, "linus")
    assert not rejections.is_untried(journal, "linus", "0.0.27")
