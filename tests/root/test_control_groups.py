"""Processes of a unit in real control groups. A script replaces systemctl; tests/box has a real systemd."""

import os
import subprocess
import time
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import pytest

from t3flow.host.children import Children
from t3flow.host.processes import cgroups
from t3flow.host.services.manager import ServiceError
from t3flow.host.services.systemd import Systemd

SAYS = """#!/bin/sh
case $1 in show) cat {shown};; stop) echo stopped >> {calls};; esac
"""


class Group:
    """A control group of this test, with sleeping processes."""

    def __init__(self, top: Path) -> None:
        mounted = [where for _, where in cgroups._hierarchies(cgroups.MOUNTS) if os.access(where, os.W_OK)]
        if not mounted:
            pytest.skip("NOT TESTED AS ROOT: no control group can be made")
        self.name = f"/t3flow-test-{os.getpid()}-{time.monotonic_ns()}"
        self.folders = [Path(f"{where}{self.name}") for where in mounted]
        for folder in self.folders:
            (folder / "agents").mkdir(parents=True)
        self.children: list[subprocess.Popen[bytes]] = []
        self.shown = top / "shown"
        (top / "systemctl").write_text(SAYS.format(shown=self.shown, calls=top / "calls"))
        (top / "systemctl").chmod(0o755)

    def runs(self, below: str = "", *, inside: bool = True) -> subprocess.Popen[bytes]:
        child = subprocess.Popen(["sleep", "1000"])
        self.children.append(child)
        for folder in self.folders if inside else ():
            (folder / below / "cgroup.procs").write_text(str(child.pid))
        return child

    def says(self, main_pid: int, group: str | None = None) -> None:
        """Set what systemctl shows of the unit."""
        self.shown.write_text(
            f"LoadState=loaded\nActiveState={'active' if main_pid else 'failed'}\nMainPID={main_pid}\n"
            f"ControlGroup={self.name if group is None else group}\nSlice=-.slice\n"
        )

    def remove(self) -> None:
        for child in self.children:
            child.kill()
            child.wait()
        for folder in self.folders:
            for each in (folder / "agents", folder):
                with suppress(FileNotFoundError):
                    each.rmdir()


@pytest.fixture
def group(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Group]:
    monkeypatch.setenv("PATH", f"{tmp_path}:{os.environ['PATH']}")
    made = Group(tmp_path)
    yield made
    made.remove()


@pytest.fixture
def systemd(tmp_path: Path) -> Systemd:
    return Systemd(Children(tmp_path / "lock"), "t3-serve@{user}.service")


def test_all_processes_of_the_unit_and_no_others(group: Group, systemd: Systemd) -> None:
    launcher, server, agent = group.runs(), group.runs(), group.runs("agents")
    group.runs(inside=False)
    group.says(launcher.pid)
    assert sorted(systemd.pids("ada")) == sorted([launcher.pid, server.pid, agent.pid])


def test_a_group_that_cannot_be_seen_is_an_error(group: Group, systemd: Systemd) -> None:
    """An invisible group is an error, not an empty unit: nothing would be suspended before the stop."""
    stranger = group.runs(inside=False)
    group.says(stranger.pid)
    with pytest.raises(ServiceError, match="does not list"):
        systemd.pids("ada")


def test_what_a_stop_leaves_in_the_group_is_ended(group: Group, systemd: Systemd) -> None:
    """`KillMode=process`: an orphaned server keeps port and database. Foreign processes are not touched."""
    server, agent, stranger = group.runs(), group.runs("agents"), group.runs(inside=False)
    group.says(0)
    systemd.stop("ada")
    assert (server.wait(5), agent.wait(5)) == (-9, -9)
    assert stranger.poll() is None


def test_what_a_unit_that_was_started_meanwhile_runs_is_left(group: Group, systemd: Systemd) -> None:
    server = group.runs()
    group.says(server.pid)
    systemd.stop("ada")
    assert server.poll() is None
