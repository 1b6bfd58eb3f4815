"""Somebody at work all the time: a restart never cuts off a turn that had begun."""

import http.client
import json
import os
import random
import signal
import sqlite3
import threading
import time
from collections.abc import Callable
from contextlib import closing, suppress

import pytest

from t3flow.engine.engine import Engine
from t3flow.engine.queue import open_queue
from t3flow.engine.runs import Outcome, new_run
from t3flow.host.activity import idle
from t3flow.host.host import Host, open_host, set_current_host
from t3flow.host.pairing import probe
from t3flow.host.processes import proc
from t3flow.restart import start_server
from t3flow.rollout.stop import stop_if_idle
from t3flow.sandbox.host import Sandbox
from t3flow.service.consumer import open_journal
from t3flow.t3.files import FIRST_DATABASE, SECOND_DATABASE, userdata

ATTEMPTS = 200
"""In each storm that must notice; in those that must lose nothing, of each generation together."""
PARTS = 4


class Storm:
    """A client that starts a turn every 10 ms, some over at once, some later."""

    def __init__(self, port: int, seed: int = 11) -> None:
        self.port = port
        self.seed = seed
        self.begun = 0
        self.stop = threading.Event()
        self.threads = [threading.Thread(target=self.work)]

    def work(self) -> None:
        dice = random.Random(self.seed)
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=3)
        while not self.stop.is_set():
            try:
                turn = self.post(connection, "start", {"thread": f"storm-{self.begun}"})["turn"]
                self.begun += 1
                time.sleep(dice.choice((0, 0, 0.002, 0.006)))
                self.post(connection, "end", {"turn": turn})
                time.sleep(dice.uniform(0.002, 0.01))
            except (OSError, http.client.HTTPException, KeyError, ValueError):
                connection.close()
                time.sleep(0.005)

    def post(self, connection: http.client.HTTPConnection, what: str, body: dict[str, str]) -> dict[str, str]:
        connection.request("POST", f"/__standin/turn/{what}", json.dumps(body))
        answer: dict[str, str] = json.loads(connection.getresponse().read())
        return answer

    def rages(self, box: Sandbox) -> None:
        """Wait until it has begun a few turns more."""
        enough = self.begun + 3
        box.until(lambda: self.begun >= enough, "turns are begun")

    def __enter__(self) -> "Storm":
        for thread in self.threads:
            thread.start()
        return self

    def __exit__(self, *error: object) -> None:
        self.stop.set()
        for thread in self.threads:
            thread.join(10)


CUT_OFF = {
    "A": "projection_thread_sessions where thread_id like 'storm-%' and active_turn_id is not null",
    "C": "projection_thread_sessions where thread_id like 'storm-%' and (active_turn_id is not null or status = 'error')",
    "D": "orchestration_v2_projection_runs where thread_id like 'storm-%' and status != 'completed'",
}
"""Turns that were begun and never ended; later builds mark those of a server that was killed as failed or cancelled at its next start."""


def cut_off(box: Sandbox, generation: str) -> int:
    """How many turns of the storm were cut off, whatever client saw it or not."""
    database = userdata(box.base_dir("ada")) / (SECOND_DATABASE if generation == "D" else FIRST_DATABASE)
    with closing(sqlite3.connect(f"file:{database}?mode=ro", uri=True)) as connection:
        found: int = connection.execute(f"select count(*) from {CUT_OFF[generation]}").fetchone()[0]
        return found


def prepare(make_box: Callable[..., Sandbox], generation: str) -> tuple[Sandbox, Host]:
    behavior = {"generation": generation, "boot_window_ms": 0, "stop_ms": 20, "recovers_ms": 100}
    box = make_box(["ada"], consumer=False, quiet_seconds=0, databases={}, behavior=behavior)
    host = open_host(box.settings, open_journal(box.settings))
    set_current_host(host)
    return box, host


@pytest.mark.parametrize("part", range(PARTS))
@pytest.mark.parametrize("generation", CUT_OFF)
def test_no_turn_is_lost_in_200_attempts(make_box: Callable[..., Sandbox], generation: str, part: int) -> None:
    """In parts, each with a storm of its own, that workers share."""
    box, host = prepare(make_box, generation)

    def attempt() -> Outcome:
        stopped = stop_if_idle("ada", "0.0.24", True, False, None)
        if stopped["stopped"]:
            start_server("ada")
        return Outcome("stopped" if stopped["stopped"] else stopped["waiting_for"])

    engine = Engine(host.journal, open_queue(f"sqlite://{box.top}/state/storm.db", b"k" * 32), {"attempt": attempt})
    outcomes: dict[str, int] = {}
    with Storm(box.ports["ada"], seed=11 + part) as storm:
        for _ in range(ATTEMPTS // PARTS):
            storm.rages(box)
            run = new_run(host.journal, "attempt", {})
            assert run is not None
            engine.advance(run)
            outcome = str(host.journal.run(run).outcome)
            outcomes[outcome] = outcomes.get(outcome, 0) + 1
    box.supervise("stop", "ada")
    assert cut_off(box, generation) == 0
    assert outcomes.get("stopped", 0) >= ATTEMPTS / PARTS / 10, outcomes
    assert outcomes.get("active_turn", 0) >= ATTEMPTS / PARTS / 20, outcomes
    assert storm.begun > 500 / PARTS


@pytest.mark.parametrize("generation", CUT_OFF)
def test_the_storm_would_notice(make_box: Callable[..., Sandbox], generation: str) -> None:
    """The same storm against a restart that reads first and stops then, as scripts do, loses a turn soon."""
    box, host = prepare(make_box, generation)
    with Storm(box.ports["ada"]) as storm:
        for _ in range(ATTEMPTS):
            storm.rages(box)
            server = host.services.state("ada")
            if server.main_pid and idle.read_idleness(host, "ada", server, canary=True).idle:
                with suppress(ProcessLookupError, probe.NotPaired):
                    os.kill(probe.own_server(host, "ada"), signal.SIGKILL)
                box.until(lambda pid=server.main_pid: not proc.command_line(pid), "it is gone")
                host.services.stop("ada")
                if cut_off(box, generation):
                    break
                host.services.start("ada")
    box.supervise("stop", "ada")
    assert cut_off(box, generation) > 0
