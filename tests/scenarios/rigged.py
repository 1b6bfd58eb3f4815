"""A sandbox whose deferrals are drained in the test's own process: real servers, dispatch, supervisor and engine, and a manager that may refuse."""

import dataclasses
import time
from collections.abc import Callable
from typing import Any

from scenes import NEXT

from t3flow import workflows
from t3flow.engine.engine import Engine
from t3flow.engine.journal import Run
from t3flow.engine.queue import open_queue
from t3flow.engine.runs import new_run
from t3flow.host import freeze
from t3flow.host.host import Host, open_host, set_current_host
from t3flow.host.records import deferral_records, rejections
from t3flow.host.services.manager import ServiceError
from t3flow.sandbox.host import Sandbox
from t3flow.service.consumer import open_journal


class Refusing:
    """The manager of units, which may refuse to start a server that is led to one of these versions, of these users or of all."""

    def __init__(self, box: Sandbox, services: Any) -> None:
        self.box, self.services = box, services
        self.refuses: set[str] = set()
        self.only_of: set[str] = set()
        self.before_start: Callable[[str], None] = lambda version: None

    def __getattr__(self, name: str) -> Any:
        return getattr(self.services, name)

    def start(self, user: str) -> None:
        version = self.box.assigned(user) or ""
        self.before_start(version)
        if version in self.refuses and (not self.only_of or user in self.only_of):
            raise ServiceError(f"systemctl start t3-serve@{user}.service failed: Unit is masked.")
        self.services.start(user)


class Rig:
    """A user who is idle and deferred to NEXT, and an engine that is advanced by hand."""

    def __init__(self, box: Sandbox, behavior: dict[str, Any]) -> None:
        self.box = box
        box.publish(NEXT, behavior)
        box.install_slot(NEXT)
        host = open_host(box.settings, open_journal(box.settings, create=True))
        self.manager = Refusing(box, host.services)
        self.host: Host = dataclasses.replace(host, services=self.manager)  # type: ignore[arg-type]
        set_current_host(self.host)
        queue = open_queue(f"sqlite://{box.top}/state/queue.db", b"k" * 32)
        self.engine = Engine(self.host.journal, queue, workflows.WORKFLOWS)

    def drain(self, user: str = "ada") -> Run:
        """One try to move a deferred user: the drain's run after it."""
        run = new_run(self.host.journal, "drain", {"user": user}) or ""
        deferral_records.put_deferral(self.host.journal, user, run, NEXT, "quiet_period", time.time())
        time.sleep(1.1)  # quiet_seconds
        self.engine.advance(run)
        return self.host.journal.run(run)

    @property
    def verdict(self) -> tuple[bool, bool]:
        """(rejected, frozen)."""
        return NEXT in rejections.rejected(self.host.journal), freeze.is_frozen(self.host.settings)

    def deferral(self, user: str = "ada") -> deferral_records.Deferral:
        found = deferral_records.deferral(self.host.journal, user)
        assert found is not None
        return found

    def status(self) -> str:
        """Return what `t3flow status` prints."""
        return self.box.t3flow("status").stdout

    def now(self, *users: str) -> Run:
        """Return a drain that a person asks for, of these users or of all."""
        run = new_run(self.host.journal, "drain_now", {"users": list(users), "ignore_processes": []}) or ""
        self.engine.advance(run)
        return self.host.journal.run(run)
