"""What months leave behind: replaced sets, traces of accounts that are gone, records of versions. All of it ends, and nothing that is needed."""

import re
import time
from collections.abc import Callable
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
from test_pruning import VERSIONS, lead, slot, snapshot

from t3flow.deferrals import blockers, left_behind, long_waits
from t3flow.engine.runs import new_run
from t3flow.host import departed, pruning, slots, user_files
from t3flow.host.backups import durations, replaced, restoring, store
from t3flow.host.host import Host
from t3flow.host.owner.answers import OwnerProblem
from t3flow.host.pairing import last_pairings, own_activity
from t3flow.host.records import deferral_records, facts, holds, rejections, tables, version_schemas, wishes


def test_replaced_sets_go_only_where_a_setting_says_so(hosted: Callable[..., Host]) -> None:
    """By default a set stays until a person drops it; with `backup.replaced_days`, only recorded sets that are older go."""
    host = hosted()
    old, young = replaced_set(host, "ada", 40), replaced_set(host, "ada", 20)
    foreign = replaced_set(host, "ada", 41)
    replaced.forget(host.journal, "ada", foreign.name)
    pruning.prune(host)
    assert {path.is_dir() for path in (old, young, foreign)} == {True}
    host = with_backup(host, replaced_days=30)
    new_run(host.journal, "restore", {"user": "ada", "backup": old.name})
    pruning.prune(host)
    assert old.is_dir(), "a restore was asked for and may wait for the host"
    with host.journal.transaction() as connection:
        connection.execute("update runs set status = 'succeeded'")
    assert f"ada/{old.name}" in pruning.prune(host)
    assert [path.is_dir() for path in (old, young, foreign)] == [False, True, True]
    assert [name for _, name in replaced.recorded_versions(host.journal)] == [young.name]


def test_a_home_that_cannot_be_read_delays_no_other(hosted: Callable[..., Host], log: list[str]) -> None:
    """It keeps its set, one line names the user, and the sets of others go."""
    host = with_backup(hosted(("ada", "grace")), replaced_days=30)
    kept, gone = replaced_set(host, "ada", 40), replaced_set(host, "grace", 40)
    asked: list[str] = []
    run = replaced.run_as_owner

    def hangs(host: Host, user: str, *arguments: Any, **more: Any) -> dict[str, Any]:
        asked.append(user)
        if user == "ada":
            raise OwnerProblem("working in the home of ada failed: rm did not end within 30 s")
        return run(host, user, *arguments, **more)

    replaced_set(host, "ada", 41)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(replaced, "run_as_owner", hangs)
        pruning.prune(host)
    assert (kept.is_dir(), gone.is_dir(), asked) == (True, False, ["ada", "grace"])
    assert len([line for line in log if "ada" in line]) == 1


def test_nothing_is_left_of_an_account_that_is_gone(hosted: Callable[..., Host]) -> None:
    """Link, folder of wishes, deferral, rows, and facts go; those of a present user stay."""
    host = hosted()
    slot(host, VERSIONS[0])
    state_dir = host.settings.paths.state_dir
    for user in ("ada", "left"):
        lead(host, user, VERSIONS[0])
        leave_traces(host, user)
        folder = user_files.folder_of(state_dir, user)
        folder.mkdir(parents=True)
        (folder / user_files.WISH).write_text("{}")
    pruning.prune(host)
    assert traces(host, "left") == traces(host, "ada") != []
    facts.write(host.journal, departed.GONE, {"left": time.time() - 15 * 86400})
    pruning.prune(host)
    assert traces(host, "left") == []
    assert traces(host, "ada")
    assert user_files.users(state_dir) == ["ada"]
    assert "left" not in slots.links(host.settings.paths.versions_dir)
    pruning.prune(host)
    assert facts.read(host.journal, departed.GONE) is None


def test_each_table_of_users_is_known() -> None:
    """A new table with a column `user` belongs in `departed.OF_USERS`, unless its rows end in another way."""
    source = "\n".join(path.read_text() for path in Path(departed.__file__).parents[1].rglob("*.py"))
    created = re.findall(r"create table (?:if not exists )?(\w+) \(([^;]*?)\) without rowid", source)
    of_users = {name for name, columns in created if re.search(r"\buser text\b", columns)}
    end_otherwise = {"backups", "rejected_for", "alerts"}
    assert of_users - end_otherwise == set(departed.OF_USERS)


def test_records_of_versions_go_when_nothing_can_return_to_them(hosted: Callable[..., Host]) -> None:
    host = hosted()
    slot(host, VERSIONS[5])
    slots.set_default(host.settings.paths.versions_dir, VERSIONS[5])
    lead(host, "ada", VERSIONS[5])
    snapshot(host, "ada", VERSIONS[4], VERSIONS[5])
    facts.write(host.journal, pruning.ACCEPTED, [*VERSIONS[1:6]])
    for version in VERSIONS[:8]:
        version_schemas.note_level(host.journal, version, 30)
        version_schemas.note_schema(host.journal, version, {"state.sqlite": [[1, "a"]]})
    for version in (VERSIONS[0], VERSIONS[2], VERSIONS[7]):
        rejections.reject(host.journal, version, "bad", ["ada"])
    old = time.time() - 91 * 86400
    with host.journal.transaction() as connection:
        connection.execute("update rejected set at = ? where version != ?", (old, VERSIONS[2]))
    pruning.prune(host)
    pruning.prune(host)
    assert set(rejections.rejected(host.journal)) == {VERSIONS[2], VERSIONS[7]}, "a recent one, and one that may come"
    shown = {version for (version,) in host.journal.query("select version from levels")}
    assert shown == {version for (version,) in host.journal.query("select version from schemas")}
    assert shown == {VERSIONS[number] for number in (*range(1, 6), 7)}


def replaced_set(host: Host, user: str, days: int) -> Path:
    """Create a set that was replaced so many days ago."""
    name = f"{replaced.PREFIX}{datetime.fromtimestamp(time.time() - days * 86400, UTC):%Y%m%dT%H%M%SZ}"
    path = host.base_dir(user) / "userdata" / name
    path.mkdir()
    (path / "state.sqlite").write_bytes(b"")
    replaced.note(host.journal, user, name, VERSIONS[0])
    return path


def with_backup(host: Host, **changed: float) -> Host:
    """Return the host with other settings of backups."""
    settings = host.settings
    return replace(host, settings=settings._replace(backup=settings.backup._replace(**changed)))


def leave_traces(host: Host, user: str) -> None:
    """Write a row about a user to each table, as months of work do."""
    journal = host.journal
    deferral_records.put_deferral(journal, user, f"drain-{user}", VERSIONS[0], "window", 0.0)
    blockers.note(journal, user, blockers.DRAIN, "it failed")
    long_waits.note(journal, user, "active_turn", "a turn is running")
    holds.put(journal, user, None, "", "root")
    left_behind.note(journal, user, VERSIONS[0], "window", "")
    wishes.put(journal, user, "0" * 32, wishes.NOW)
    replaced.note(journal, user, "replaced-20200101T000000Z", VERSIONS[0])
    durations.note_snapshot(journal, user, 1.0)
    own_activity.note_restart(journal, user)
    last_pairings.note_pairing(journal, user, "")
    rejections.note_untried(journal, VERSIONS[0], [user])
    facts.write(journal, store.TAKING + user, [])
    facts.write(journal, restoring.RESTORED + user, "x")
    with tables.transaction(journal) as connection:
        connection.execute("insert or replace into probe_sessions values (?, ?, ?)", (user, "x", time.time()))


def traces(host: Host, user: str) -> list[str]:
    """Return the tables and facts with something about a user."""
    found = [table for table in departed.OF_USERS if host.journal.query(f"select 1 from {table} where user = ?", user)]
    found += [
        key.replace(user, "") for (key,) in host.journal.query("select key from facts") if key.endswith(f":{user}")
    ]
    return found + [key for key in departed.OF_EACH if user in (facts.read(host.journal, key) or {})]
