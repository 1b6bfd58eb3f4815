"""Work in the stand-in (turns, runs, effects, scheduled tasks) after a stop, after a kill, and after the next start."""

import json
import os
import shutil
import signal
import sqlite3
import time
from collections.abc import Callable
from contextlib import closing
from datetime import datetime
from pathlib import Path
from typing import Any

import pytest

DATA = Path(__file__).parents[1] / "data"
RUNS = "select run_id, status, payload_json from orchestration_v2_projection_runs order by requested_at, ordinal"
LIVE = {"C": "state.sqlite", "D": "statev2.sqlite"}


@pytest.fixture
def build(builds: Callable[..., Any]) -> Callable[..., Any]:
    """Return a build that starts, stops and recovers fast, with faults."""

    def make(generation: str, *rules: dict[str, Any], **more: Any) -> Any:
        quick = {"boot_window_ms": 50, "stop_ms": 20, "recovers_ms": 300, "rules": list(rules), **more}
        return builds("0.0.42", {"generation": generation, **quick})

    return make


def query(server: Any, generation: str, sql: str) -> list[Any]:
    with closing(sqlite3.connect(server.base_dir / "userdata" / LIVE.get(generation, "state.sqlite"))) as connection:
        return connection.execute(sql).fetchall()


def kill(server: Any) -> None:
    os.kill(server.pid, signal.SIGKILL)
    server.child.wait(5)


def until(holds: Callable[[], bool], seconds: float = 5) -> None:
    deadline = time.monotonic() + seconds
    while not holds():
        assert time.monotonic() < deadline
        time.sleep(0.02)


def test_a_turn_of_c(build: Callable[..., Any], serve: Callable[..., Any]) -> None:
    made = build("C")
    server = serve(made)
    sql = "select s.status, s.active_turn_id, t.state from projection_thread_sessions s join projection_turns t using (thread_id)"
    turn = server.control("turn/start", agent="codex", status="starting")["turn"]
    assert query(server, "C", sql) == [("starting", turn, "running")]
    server.control("turn/end", turn=turn)
    assert query(server, "C", sql) == [("ready", None, "completed")]


@pytest.mark.parametrize("end", ["stop", "kill"])
@pytest.mark.parametrize("generation", ["B", "late B", "C"])
def test_a_turn_that_was_cut_off(
    build: Callable[..., Any], serve: Callable[..., Any], generation: str, end: str
) -> None:
    """Rows of a killed server stay `running`; builds since the end of August 2026 set them to `error` after the next start."""
    more = {"schema_level": 41} if generation == "late B" else {}
    made = build(generation[-1], **more)
    server = serve(made)
    server.control("turn/start")
    (server.stop if end == "stop" else lambda: kill(server))()
    time.sleep(0.1)
    sql = "select status, active_turn_id is null from projection_thread_sessions"
    assert query(server, generation, sql) == [("running", 0)]
    again = serve(made, port=server.port)
    fresh = again.control("turn/start")["thread"]
    assert ("running", 0) in query(again, generation, sql)
    if generation == "B":
        time.sleep(0.6)
        assert query(again, generation, sql) == [("running", 0), ("running", 0)]
    else:
        until(lambda: ("error", 1) in query(again, generation, sql))
        alive = query(again, generation, f"select status from projection_thread_sessions where thread_id = '{fresh}'")
        assert alive == [("running",)]


def test_runs_of_d(build: Callable[..., Any], serve: Callable[..., Any]) -> None:
    server = serve(build("D"))
    statuses = ["preparing", "starting", "running", "waiting", "queued"]
    begun = {status: server.control("turn/start", status=status, thread=f"thread {status}") for status in statuses}
    held = server.control("turn/start", status="queued", queueHeld=True, thread="thread queued")
    assert held["turn"] == "run:thread:thread queued:ordinal:2"
    rows = {run: (status, json.loads(payload)) for run, status, payload in query(server, "D", RUNS)}
    assert [rows[begun[status]["turn"]][0] for status in statuses] == statuses
    assert rows[held["turn"]][1]["queueHeld"] is True
    assert "queueHeld" not in rows[begun["queued"]["turn"]][1]
    assert all(row[0] == row[1]["status"] for row in rows.values())
    server.control("turn/end", turn=begun["running"]["turn"], status="failed")
    assert ("failed",) in query(server, "D", "select status from orchestration_v2_projection_runs")
    assert query(server, "D", "select * from projection_thread_sessions") == []
    effect = server.control("effect", status="pending")["effect"]
    sql = "select status from orchestration_v2_effect_outbox"
    assert query(server, "D", sql) == [("pending",)]
    server.control("effect", effect=effect, status="succeeded")
    assert query(server, "D", sql) == [("succeeded",)]
    server.control("schedule", in_seconds=90)
    ((due, enabled),) = query(server, "D", "select next_run_at, enabled from scheduled_tasks")
    assert enabled == 1
    assert 60 < datetime.fromisoformat(due).timestamp() - time.time() <= 90
    assert "no such work" in serve(build("C")).control("effect")["error"]


def test_a_stop_of_d_cancels_what_runs(build: Callable[..., Any], serve: Callable[..., Any]) -> None:
    server = serve(build("D"))
    server.control("turn/start", status="waiting", thread="a")
    server.control("turn/start", status="queued", thread="a")
    server.stop()
    assert [row[1] for row in query(server, "D", RUNS)] == ["cancelled", "queued"]


@pytest.mark.parametrize("drops", [False, True])
def test_a_kill_of_d_is_made_up_for_at_the_next_start(
    build: Callable[..., Any], serve: Callable[..., Any], drops: bool
) -> None:
    made = build("D", *([{"fault": "recovery_drops_queued"}] if drops else []))
    server = serve(made)
    server.control("turn/start", thread="a")
    server.control("turn/start", status="queued", thread="a")
    kill(server)
    assert [row[1] for row in query(server, "D", RUNS)] == ["running", "queued"]
    again = serve(made, port=server.port)
    until(lambda: query(again, "D", RUNS)[0][1] == "cancelled")
    rows = query(again, "D", RUNS)
    assert [row[1] for row in rows] == (["cancelled"] if drops else ["cancelled", "queued"])
    assert drops or json.loads(rows[1][2])["queueHeld"] is True


def test_real_databases_with_work_in_flight(
    build: Callable[..., Any], serve: Callable[..., Any], tmp_path: Path
) -> None:
    for generation, name, sample in (
        ("D", "statev2.sqlite", "statev2-level56-run-in-flight"),
        ("C", "state.sqlite", "state-level52-killed-in-turn"),
    ):
        base_dir = tmp_path / generation
        (base_dir / "userdata").mkdir(parents=True)
        shutil.copyfile(DATA / f"{sample}.sqlite", base_dir / "userdata" / name)
        server = serve(build(generation), base_dir)
        sql = RUNS if generation == "D" else "select thread_id, status from projection_thread_sessions"
        until(lambda: {row[1] for row in query(server, generation, sql)}.isdisjoint({"running", "starting"}))  # noqa: B023
        ended = {row[1] for row in query(server, generation, sql)}
        assert ("cancelled" if generation == "D" else "error") in ended
