"""A gate with a hundred databases: which are tried, when it ends, and what its limit does."""

import json
import sqlite3
from collections.abc import Callable
from contextlib import closing
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from bad_generations import BAD_GENERATIONS
from builds import VERSIONS, Build
from judging import FIRST, NEXT, Trials, judge, resume, snapshot_of, users_of
from seeds import LEVEL32, seed
from slotting import make_slot

from t3flow.engine.journal import Run
from t3flow.gate import trials
from t3flow.host.cells import cells
from t3flow.host.host import Host, set_current_host
from t3flow.host.records import rejections
from t3flow.t3 import ledger

HUNDRED = [f"user{number:03}" for number in range(100)]
ODD, TYPICAL = "user057", "user049"
WIDTH = 2
OLD = [(number, f"Migration{number}") for number in range(1, 31)]


@pytest.fixture
def held(bare: Callable[..., Host], monkeypatch: pytest.MonkeyPatch) -> Trials:
    made = Trials(bare(), monkeypatch)
    made.seconds = 0.01
    monkeypatch.setattr(trials, "_width", lambda host, size: WIDTH)
    return made


def snapshots(odd: str = ODD) -> list[dict[str, Any]]:
    """Return a hundred snapshots with the same schema, except for one that has another."""
    other = [*OLD[:-1], (30, "Preview30")]
    return [snapshot_of(user, schema={"state.sqlite": other if user == odd else OLD}) for user in HUNDRED]


def limit(held: Trials, monkeypatch: pytest.MonkeyPatch, minutes: float) -> None:
    """Give the gate another limit."""
    settings = held.host.settings
    changed = settings._replace(gate=settings.gate._replace(limit_minutes=minutes))
    set_current_host(replace(held.host, settings=changed))


def withheld(run: Run) -> dict[str, list[str]]:
    """Return the users whom a gate that passed withholds: user → kind and reason."""
    assert run.outcome == "passed", run.result
    found: dict[str, list[str]] = json.loads(run.result["reason"])
    return found


def test_what_fails_for_one_odd_user_ends_it_within_the_first_round(held: Trials) -> None:
    held.fails = {(ODD, NEXT)}
    ended = judge(held.host, users_of(HUNDRED), snapshots())
    assert ended.outcome == "gate_failed"
    assert f"fails on the databases of {ODD}: it crashes" in ended.result["reason"]
    begun = [user for user, version in held.began if version == NEXT]
    assert {*begun[:WIDTH]} == {TYPICAL, ODD}
    assert len(begun) <= WIDTH * trials.BATCH_OF_WIDTHS, "no other batch begins"
    assert (ODD, FIRST) in held.began, "the control was run"


def test_what_no_metadata_tell_ends_it_at_the_first_failure(held: Trials) -> None:
    """The others of its batch that had not begun are not tried."""
    names = [place for batch in seeds_of(held) for place in batch]
    held.fails = {(names[4], NEXT)}
    ended = judge(held.host, users_of(HUNDRED), snapshots())
    assert ended.outcome == "gate_failed"
    assert len([user for user, version in held.began if version == NEXT]) <= WIDTH * trials.BATCH_OF_WIDTHS
    assert "databases)" in ended.result["reason"], "and it says how many were tried"


def seeds_of(held: Trials) -> list[list[str]]:
    """Return the users in the order of a gate in which all pass."""
    judge(held.host, users_of(HUNDRED), snapshots())
    events = held.host.journal.events(held.host.journal.runs("1")[0].id)
    held.began.clear()
    chosen = next(each.data["result"] for each in events if (each.kind, each.step) == ("completed", "choose_seeds"))
    return [[each["user"] for each in batch] for batch in chosen["batches"]]


def test_a_database_at_fault_stops_nobody_else(held: Trials) -> None:
    """Trials that did not begin after the failure are held next, each once."""
    names = [user for batch in seeds_of(held) for user in batch]
    held.fails = {(names[place], version) for place in (3, 20, 60) for version in (NEXT, FIRST)}
    found = withheld(judge(held.host, users_of(HUNDRED), snapshots()))
    assert {user: kind for user, (kind, _) in found.items()} == {names[place]: "skipped" for place in (3, 20, 60)}
    tried = [user for user, version in held.began if version == NEXT]
    assert sorted(tried) == sorted(HUNDRED)


def test_one_that_is_slow_beside_others_lets_the_rest_go_on(held: Trials) -> None:
    names = [user for batch in seeds_of(held) for user in batch]
    held.slow_at_first = {names[5]}
    assert withheld(judge(held.host, users_of(HUNDRED), snapshots())) == {}


def test_the_limit_defers_those_whom_it_does_not_reach(held: Trials, monkeypatch: pytest.MonkeyPatch) -> None:
    """Nobody else waits for them, and each reason has the cause and the command."""
    limit(held, monkeypatch, 0.25 / 60)
    held.seconds = 0.05
    found = withheld(judge(held.host, users_of(HUNDRED), snapshots()))
    tried = {user for user, _ in held.began}
    assert {TYPICAL, ODD} <= tried, "one of each schema"
    assert set(found) == set(HUNDRED) - tried
    assert len(tried) < 60
    for user, (kind, reason) in found.items():
        assert kind == "deferred"
        assert "gate.limit_minutes" in reason
        assert f"t3flow enqueue drain {user}" in reason
    journal = held.host.journal
    assert {user for user in HUNDRED if rejections.is_untried(journal, user, NEXT)} == set(found)


def test_a_limit_that_is_over_before_the_first_trial_blocks_nobody(
    held: Trials, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As after a long stop of the consumer. The first trials begin anyway."""
    limit(held, monkeypatch, 1e-9)
    found = withheld(judge(held.host, users_of(HUNDRED), snapshots()))
    assert 1 <= len(held.began) <= WIDTH
    assert len(found) == 100 - len(held.began)


def test_databases_at_fault_use_up_no_limit(held: Trials, monkeypatch: pytest.MonkeyPatch) -> None:
    """The version in use fails on the first databases too: the gate goes on until the version passes on one."""
    names = [user for batch in seeds_of(held) for user in batch]
    limit(held, monkeypatch, 1e-9)
    held.fails = {(user, version) for user in names[:5] for version in (NEXT, FIRST)}
    found = withheld(judge(held.host, users_of(HUNDRED), snapshots()))
    assert {user for user, (kind, _) in found.items() if kind == "skipped"} == set(names[:5])
    passed = len({user for user, version in held.began if version == NEXT} - {*names[:5]})
    assert 1 <= passed <= WIDTH
    assert [kind for kind, _ in found.values()].count("deferred") == 95 - passed


def test_a_version_of_an_unknown_kind_does_not_outlast_the_limit(held: Trials, monkeypatch: pytest.MonkeyPatch) -> None:
    limit(held, monkeypatch, 1e-9)
    held.unknown = {*HUNDRED}
    ended = judge(held.host, users_of(HUNDRED), snapshots())
    assert ended.outcome == "gate_inconclusive"
    assert len(held.began) <= WIDTH


def test_a_failure_is_compared_whatever_the_time(held: Trials, monkeypatch: pytest.MonkeyPatch) -> None:
    """A version that is bad for the only one tried is rejected, not deferred for that user alone."""
    limit(held, monkeypatch, 1e-9)
    held.fails = {(user, NEXT) for user in (TYPICAL, ODD)}
    assert judge(held.host, users_of(HUNDRED), snapshots()).outcome == "gate_failed"


class Killed(BaseException):
    """The consumer is killed."""


def test_a_gate_that_is_killed_goes_on_with_the_batch_in_flight(held: Trials, monkeypatch: pytest.MonkeyPatch) -> None:
    """What an earlier batch has shown is not tried again."""
    names = [user for batch in seeds_of(held) for user in batch]
    held.kills = {names[30]: Killed()}
    with pytest.raises(Killed):
        judge(held.host, users_of(HUNDRED), snapshots())
    before = [user for user, _ in held.began]
    held.kills = {}
    (run,) = held.host.journal.runs("status = 'running'")
    ended = resume(held.host, run.id)
    assert withheld(ended) == {}
    after = [user for user, _ in held.began][len(before) :]
    assert {*before, *after} == {*HUNDRED}
    assert len({*before} & {*after}) <= WIDTH * trials.BATCH_OF_WIDTHS


BAD: Build = next(build for build in BAD_GENERATIONS["databases"] if build.name == "reused-numbers")


def real_snapshot(user: str, path: Path) -> dict[str, Any]:
    """Return a snapshot of a real database, with its schema."""
    with closing(sqlite3.connect(f"{path.as_uri()}?mode=ro&immutable=1", uri=True)) as database:
        schema = ledger.read(database) or []
    files = {"state.sqlite": str(path)}
    more: dict[str, Any] = {
        "path": str(path),
        "bytes": path.stat().st_size,
        "level": ledger.level(schema),
        "files": files,
    }
    return snapshot_of(user, schema={"state.sqlite": schema}, **more)


def test_a_real_bad_build_is_found_in_the_first_round_of_a_hundred(
    make_host: Callable[..., Host], tmp_path: Path
) -> None:
    """One user once ran a preview with other migrations under the same numbers: the build cannot start there, and the version in use can."""
    host = make_host(gate={"user": "nobody"}, dispatch={"cookie": ""})
    set_current_host(host)
    version = VERSIONS["C"]
    slot = make_slot(host, version, tmp_path / "build", {"generation": "C", "boot_window_ms": 100, "rules": BAD.rules})
    make_slot(host, FIRST, tmp_path / "first", {"schema_level": 32, "boot_window_ms": 100})
    odd = seed("reused", tmp_path)["state.sqlite"]
    found = [real_snapshot(user, odd if user == ODD else LEVEL32) for user in HUNDRED]
    ended = judge(host, users_of(HUNDRED), found, slot=str(slot), version=version)
    assert ended.outcome == "gate_failed", ended.result
    assert f"fails on the databases of {ODD}" in ended.result["reason"]
    verdicts = [
        each
        for event in host.journal.events(ended.id)
        if (event.kind, event.step) == ("completed", "run_trials")
        for each in event.data["result"]
    ]
    tried = [each["seed"] for each in verdicts if each["checks"]]
    assert tried[:2] == [TYPICAL, ODD]
    assert len(tried) <= cells.MAX_PARALLEL, "no more than began beside it"
    assert all(0 < each["server_s"] < each["took_s"] for each in verdicts if each["verdict"] == "pass")
