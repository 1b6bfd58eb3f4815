"""How long a unit is suspended to read its user's idleness, with more processes in it, and with unrelated processes on the host.

A file lists the unit's processes, like a control group; the sandbox's supervisor would read all of /proc.
"""

import json
import os
import signal
import socket
import statistics
import subprocess
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from common import median_seconds, show, sized
from sandboxed import go_inside, sandbox

if TYPE_CHECKING:
    from t3flow.host.services.manager import ServerState

TIMES = sized(30, 3)
JOBS = 'i=0; while [ $i -lt {count} ]; do sleep 1000 & i=$((i + 1)); done; exec "$@"'
NATIVE = {"generation": "C", "boot_window_ms": 0}
STRANGERS, CONNECTIONS = sized((3000, 2000), (50, 20))
MORE_PROCESSES = sized((1, 10, 50), (1,))
MOST = 1.5
"""The largest allowed ratio with and without unrelated processes, plus a millisecond for the busier host."""


def reference() -> list[float]:
    """Return the seconds of SIGSTOP to a process until it has stopped, and SIGCONT."""
    from t3flow.host.processes import proc

    child = subprocess.Popen(["sleep", "1000"])

    def stop_and_go() -> None:
        os.kill(child.pid, signal.SIGSTOP)
        while not proc.is_suspended(child.pid):
            time.sleep(0.0001)
        os.kill(child.pid, signal.SIGCONT)

    try:
        return median_seconds(stop_and_go, TIMES)
    finally:
        child.kill()
        child.wait()


@contextmanager
def strangers(count: int, connections: int) -> Iterator[None]:
    """Start this many unrelated processes and connections."""
    script = f"i=0; while [ $i -lt {count} ]; do sleep 1000 & i=$((i + 1)); done; echo there; wait"
    with ExitStack() as stack:
        shell = subprocess.Popen(["sh", "-c", script], start_new_session=True, stdout=subprocess.PIPE)
        stack.callback(shell.wait)
        stack.callback(os.killpg, shell.pid, signal.SIGKILL)
        assert shell.stdout is not None
        shell.stdout.readline()
        listener = stack.enter_context(socket.create_server(("127.0.0.1", 0), backlog=1024))
        for _ in range(connections):
            stack.enter_context(socket.create_connection(listener.getsockname()))
            stack.enter_context(listener.accept()[0])
        yield


class Grouped:
    """A service manager that reads the processes of a unit from a file, like a control group."""

    def __init__(self, services: Any, folder: Path) -> None:
        self._services, self._folder = services, folder

    def __getattr__(self, name: str) -> Any:
        return getattr(self._services, name)

    def pids_of(self, user: str, server: "ServerState") -> list[int]:
        """Return pids like `Systemd.pids_of`."""
        from t3flow.host.processes import cgroups

        return cgroups.pids(self._folder)


def held(count: int, others: int = 0, connections: int = 0) -> tuple[list[float], list[float]]:
    """Return the seconds from the first SIGSTOP to the last SIGCONT of a unit with this many jobs: without and with unrelated processes.

    The former is measured before and after the latter, so that temporary load affects both.
    """
    from t3flow.host.activity import idle
    from t3flow.host.host import open_host
    from t3flow.host.owner.reader import OwnerReader
    from t3flow.host.processes import suspension
    from t3flow.service.consumer import open_journal

    with sandbox(["ada"]) as box:
        (box.top / "etc/t3-serve/ada.unit.json").write_text(json.dumps({"wrapper": JOBS.format(count=count)}))
        box.start("0.0.24", {}, NATIVE)
        host = open_host(box.settings, open_journal(box.settings))
        server = host.services.state("ada")
        group = box.top / "group"
        group.mkdir()
        (group / "cgroup.procs").write_text("".join(f"{pid}\n" for pid in host.services.pids("ada")))
        host = replace(host, services=Grouped(host.services, group))

        def hold_and_read() -> float:
            with OwnerReader(host, "ada") as reader:
                with suspension.suspended(lambda: host.services.pids_of("ada", server)) as processes:
                    unit = idle.inspect_unit(host, "ada", server)
                    found = idle.judge(host, "ada", server, unit, reader, canary=False, ignore_processes=False)
                assert found.waiting_for in ("", "quiet_period", "running_process"), found
                return time.monotonic() - processes.since

        alone = [hold_and_read() for _ in range(TIMES)]
        if not others:
            return alone, []
        with strangers(others, connections):
            beside = [hold_and_read() for _ in range(TIMES)]
        return [*alone, *(hold_and_read() for _ in range(TIMES))], beside


def main() -> None:
    go_inside()
    against = reference()
    show("one process stopped and let go", against)
    for count in MORE_PROCESSES:
        show(f"a unit with {count} processes more, held and read", held(count)[0], "one process", against)
    alone, beside = held(1, STRANGERS, CONNECTIONS)
    show(f"beside {STRANGERS} strangers, {CONNECTIONS} connections", beside, "alone", alone)
    if sized(True, False) and statistics.median(beside) > MOST * statistics.median(alone) + 0.001:
        raise SystemExit("held still for longer because of strangers")


if __name__ == "__main__":
    main()
