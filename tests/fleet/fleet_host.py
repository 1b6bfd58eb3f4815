"""A host of the fleet: its sandbox is driven by an agent in its namespaces, its files are read from here."""

import itertools
import json
import os
import subprocess
import sys
import threading
from concurrent.futures import Future
from contextlib import suppress
from pathlib import Path
from typing import Any

import shifted_clock
from conftest import LEVEL30
from network import Network

from t3flow.engine.journal import Journal, Run
from t3flow.service.consumer import open_journal
from t3flow.settings import load as settings_module

AGENT = Path(__file__).with_name("agent.py")
CALL_SECONDS = 600.0


class Failed(AssertionError):
    """A call failed on a host."""


class Host:
    """A host with users, each with a server, and a consumer. `skew_seconds`: how far its clock is ahead."""

    retry_s = "300"

    def __init__(
        self, network: Network, name: str, top: Path, users: list[str], extra: str, skew_seconds: int = 0
    ) -> None:
        self.name, self.top, self.users, self.skew_seconds = name, top, users, skew_seconds
        self.address = network.add(name)
        environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
        if skew_seconds:
            library = top / "skew.so"
            shifted_clock.build(library, top / "skew", seconds=skew_seconds)
            environment |= {"LD_PRELOAD": str(library)}
        self._child = subprocess.Popen(
            [
                *network.words(name),
                sys.executable,
                str(AGENT),
                str(top),
                json.dumps({"quiet_seconds": 0, "extra": extra}),
                *users,
            ],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            env=environment,
            start_new_session=True,
        )
        self._numbers = itertools.count()
        self._waiting: dict[int, Future[Any]] = {}
        self._writing = threading.Lock()
        threading.Thread(target=self._read, daemon=True).start()

    def begin(self, do: str, *arguments: Any, **more: Any) -> "Future[Any]":
        """Begin a call of the host's sandbox."""
        call = {"id": next(self._numbers), "do": do, "with": arguments, "and": more}
        found: Future[Any] = Future()
        self._waiting[call["id"]] = found
        assert self._child.stdin is not None
        with self._writing:
            self._child.stdin.write(json.dumps(call) + "\n")
            self._child.stdin.flush()
        return found

    def call(self, do: str, *arguments: Any, **more: Any) -> Any:
        """Call a method of the host's sandbox and return its result."""
        return self.begin(do, *arguments, **more).result(CALL_SECONDS)

    def edit(self, old: str, new: str) -> None:
        """Replace a part of the settings file, before anything is started."""
        self.call("setenv", "EDITED", "1")  # the agent has written the file when it answers
        config = self.top / "config.toml"
        text = config.read_text()
        assert old in text
        config.write_text(text.replace(old, new))

    def set_up(self, version: str) -> None:
        """Start everything but the consumer, with all users on a version."""
        self.call(
            "setenv", "T3FLOW_SCHEDULE__RETRY_S", self.retry_s
        )  # news of other hosts end a wait, not the next look
        self.call("take_databases", {user: str(LEVEL30) for user in self.users})
        self.call("start_registry")
        self.call("install", version)
        self.call("start_servers")

    def t3flow(self, *arguments: str) -> str:
        """Run a command of t3flow there, and return what it prints."""
        finished = self.call("t3flow", *arguments)
        return str(finished["out"]) + str(finished["err"])

    def document(self, *arguments: str) -> Any:
        """Run a command of t3flow there, and return its JSON."""
        return self.call("document", *arguments)

    @property
    def journal(self) -> Journal:
        """Open the host's journal."""
        return open_journal(settings_module.load(self.top / "config.toml", {}))

    def versions(self) -> dict[str, str]:
        """Return the version of each user."""
        links = self.top / "opt/t3/users"
        return {user: (links / user).readlink().name for user in self.users}

    def last(self, workflow: str = "bump") -> Run:
        """Return the newest run of a workflow."""
        return max(self.journal.runs("workflow = ?", workflow), key=lambda run: run.created)

    def times(self, run: str, step: str, kind: str = "completed") -> list[float]:
        """Return when a step of a run was started or completed, by the host's clock."""
        return [
            at
            for (at,) in self.journal.query(
                "select at from events where run = ? and step = ? and kind = ? order by seq", run, step, kind
            )
        ]

    def stops(self, run: str) -> int:
        """Return how many times a run stopped a server; one that was let go on, for another snapshot, does not count."""
        results = self.journal.query(
            "select data from events where run = ? and step = 'stop_if_idle' and kind = 'completed'", run
        )
        return sum(json.loads(data)["result"]["stopped"] for (data,) in results)

    def waits_because(self, run: str) -> str:
        """Return why a run waits for its turn in the fleet, "" if it does not."""
        found = self.journal.query("select kind, step, data from events where run = ? order by seq desc limit 1", run)
        kind, step, data = found[0] if found else ("", "", "{}")
        return str(json.loads(data)["waiting_for"]) if (kind, step) == ("waiting", "await_turn") else ""

    def baked(self, version: str) -> list[float]:
        """Return when the watches of pairings on a version ended, by the host's clock."""
        found = self.journal.query(
            "select max(at) from events join runs on runs.id = run where workflow = 'bake' and status != 'running'"
            " and args like ? group by run",
            f'%"{version}"%',
        )
        return [at for (at,) in found]

    def is_frozen(self) -> bool:
        """Return whether the host is frozen."""
        return (self.top / "etc/t3-autoupdate.freeze").exists()

    def log(self) -> str:
        """Return the consumer's log."""
        path = self.top / "log/consumer.log"
        return path.read_text() if path.exists() else ""

    def close(self) -> None:
        """End everything on the host."""
        assert self._child.stdin is not None
        with suppress(OSError):
            self._child.stdin.close()
        self._child.wait(60)

    def _read(self) -> None:
        assert self._child.stdout is not None
        for line in self._child.stdout:
            said = json.loads(line)
            found = self._waiting.pop(said["id"])
            if "failed" in said:
                found.set_exception(Failed(f"{self.name}: {said['failed']}"))
            else:
                found.set_result(said["is"])
        for left in self._waiting.values():
            left.set_exception(Failed(f"{self.name}: the agent has ended"))
