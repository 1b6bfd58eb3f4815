"""The gate's judgment alone, as a run: on trials that a test decides, or on real ones."""

import json
import shutil
import threading
import time
from typing import Any

import pytest

from t3flow.engine.engine import Engine
from t3flow.engine.files import make_folder
from t3flow.engine.journal import Run
from t3flow.engine.queue import open_queue
from t3flow.engine.runs import Outcome, new_run
from t3flow.gate import trial_run, trials
from t3flow.gate import verdicts as gate_verdicts
from t3flow.gate.trial_run import Verdict
from t3flow.gate.trials import Seed
from t3flow.host import slots
from t3flow.host.cells import cells
from t3flow.host.host import Host, set_current_host
from t3flow.host.npm.staging import scratch_folder

FIRST, NEXT = "0.0.24", "0.0.25"
TRIAL_SECONDS = 0.3
CHECK = {"name": "answers", "ok": True, "evidence": ""}


class Trials:
    """Trials that take a while and pass; it counts how many run at a time, and notes the seeds and versions in the order in which they began."""

    def __init__(self, host: Host, monkeypatch: pytest.MonkeyPatch) -> None:
        self.at_a_time: list[int] = []
        self.began: list[tuple[str, str]] = []
        self.under_way = 0
        self.slow_at_first: set[str] = set()
        self.fails: set[tuple[str, str]] = set()
        self.unknown: set[str] = set()
        self.kills: dict[str, BaseException] = {}
        self.seconds = TRIAL_SECONDS
        self.host = host
        self._lock = threading.Lock()
        set_current_host(host)
        folder = slots.slot_path(host.settings.paths.versions_dir, FIRST)
        make_folder(folder)
        (folder / slots.MANIFEST).write_text(json.dumps({"version": FIRST}))
        monkeypatch.setattr(trials, "_try_one", self.run)

    def run(self, slot: str, version: str, seed: Seed, isolation: Any, **more: Any) -> Verdict:
        with self._lock:
            self.under_way += 1
            self.at_a_time.append(self.under_way)
            self.began.append((seed["user"], version))
        time.sleep(self.seconds)
        with self._lock:
            self.under_way -= 1
        if seed["user"] in self.kills:
            raise self.kills[seed["user"]]
        made = {**trial_run.verdict_of(seed["user"], version, cells.Isolation(), "pass", ""), "checks": [CHECK]}
        if seed["user"] in self.slow_at_first:
            self.slow_at_first.remove(seed["user"])
            return {**made, "verdict": "fail", "failed": "no answer", "slow": True}  # type: ignore[typeddict-item]
        if (seed["user"], version) in self.fails:
            return {**made, "verdict": "fail", "failed": "it crashes"}  # type: ignore[typeddict-item]
        if seed["user"] in self.unknown:
            return {**made, "verdict": "inconclusive", "failed": "a new kind", "unknown": "a new kind"}  # type: ignore[typeddict-item]
        return made  # type: ignore[return-value]


def users_of(names: list[str], version: str = FIRST) -> list[dict[str, Any]]:
    return [{"user": name, "version": version, "running": True} for name in names]


def snapshot_of(user: str, **more: Any) -> dict[str, Any]:
    """Return a snapshot as a run has it; without `files`, of a file that does not exist."""
    plain = {"path": "/none", "bytes": 1, "level": 30, "fingerprint": None, "problem": "", "missing": False}
    return {**plain, "files": {"state.sqlite": "/none"}, "schema": {}, "user": user, **more}


def judged(slot: str, version: str, users: Any, snapshots: Any) -> Outcome:
    """Run nothing but the gate's judgment; the reason has the users who are withheld, each with the reason."""
    try:
        withheld = gate_verdicts.pass_gate(slot, version, FIRST, users, snapshots)
    except gate_verdicts.Refused as refusal:
        return Outcome(refusal.outcome, refusal.reason, "failed")
    return Outcome("passed", json.dumps(withheld), "succeeded")


def judge(host: Host, users: list[Any], snapshots: list[Any], *, slot: str = "slot", version: str = NEXT) -> Run:
    """Return the run of the gate's judgment, which has ended."""
    args = {"slot": slot, "version": version, "users": users, "snapshots": snapshots}
    return resume(host, new_run(host.journal, "judged", args) or "")


def resume(host: Host, run: str) -> Run:
    """Advance a run to its end, and return it."""
    queue = open_queue(f"sqlite://{host.settings.paths.state_dir}/queue.db", b"k" * 32)
    scratch_folder(run).mkdir(parents=True, exist_ok=True)
    Engine(host.journal, queue, {"judged": judged}).advance(run)
    shutil.rmtree(scratch_folder(run))
    return host.journal.run(run)
