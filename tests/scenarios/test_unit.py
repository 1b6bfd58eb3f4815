"""The server is the unit's processes: a launcher or a wrapper in front, a monitor beside, jobs, and what a stop leaves behind."""

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from typing import Any

import pytest

from t3flow.host.activity import idle
from t3flow.host.activity.idle import Idleness
from t3flow.host.activity.resumption import SUSPENDED, resume_suspended
from t3flow.host.host import Host, open_host, set_current_host
from t3flow.host.owner.reader import OwnerReader
from t3flow.host.pairing import probe, verification
from t3flow.host.processes import ports, proc, suspension
from t3flow.host.records import facts
from t3flow.sandbox.host import Sandbox
from t3flow.service.consumer import open_journal

FIRST = "0.0.24"
NATIVE = {"generation": "C", "boot_window_ms": 0, "stop_ms": 20}
WRAPPER = 'umask 027; "$@"; exit $?'
JOBS = 'i=0; while [ $i -lt 50 ]; do sleep 1000 & i=$((i + 1)); done; exec "$@"'

Made = tuple[Sandbox, Host]


@pytest.fixture
def native(make_box: Callable[..., Sandbox]) -> Callable[..., Made]:
    """Make a host whose one user runs a launcher, a native server below it and its monitor, with what is odd about the unit."""

    def make(behavior: dict[str, Any] | None = None, **unit: str) -> Made:
        box = make_box(["ada"], consumer=False, start=False, quiet_seconds=0)
        if unit:
            (box.top / "etc/t3-serve/ada.unit.json").write_text(json.dumps(unit))
        box.start(FIRST, {}, behavior or NATIVE)
        host = open_host(box.settings, open_journal(box.settings))
        set_current_host(host)
        return box, host

    return make


def look(host: Host) -> Idleness:
    return idle.read_idleness(host, "ada", host.services.state("ada"), canary=True)


@pytest.mark.parametrize("unit", [{}, {"wrapper": WRAPPER}], ids=["launcher", "shell"])
def test_the_server_is_found_behind_what_started_it(native: Callable[..., Made], unit: dict[str, str]) -> None:
    """It has the port; launcher, wrapper and monitor are no work; the version is known by each of them."""
    box, host = native(**unit)
    server = host.services.state("ada")
    pid = probe.own_server(host, "ada")
    assert server.main_pid is not None
    assert server.main_pid != pid
    assert server.main_pid in proc.ancestors(pid, host.services.pids("ada"))
    assert "/node_modules/@t3code/" in proc.program_of(pid) or "@t3code" in " ".join(proc.command_line(pid))
    assert [probe.running_version_of(host, "ada", each) for each in (pid, server.main_pid)] == [FIRST, FIRST]
    assert probe.port_problem(host, "ada", server) == ""
    box.until(lambda: len(host.services.pids("ada")) >= 3, "the monitor runs")
    assert look(host).idle, look(host)
    probe.pair_once(host, "ada")


def test_the_cookie_is_named_by_the_server(native: Callable[..., Made]) -> None:
    """Of these builds the name depends on the user; a setting may pin another."""
    _, host = native()
    assert probe.cookie_name(host, "ada").startswith("t3_session_")


def test_a_job_in_the_unit_is_work_and_holds_still_with_it(native: Callable[..., Made]) -> None:
    """Fifty of them: all stop within a moment, and all go on."""
    _, host = native(wrapper=JOBS)
    found = look(host)
    assert (found.waiting_for, "sleep" in found.detail) == ("running_process", True), found
    pids = host.services.pids("ada")
    assert len(pids) >= 52
    server = host.services.state("ada")
    with suspension.suspended(lambda: host.services.pids_of("ada", server)) as hold:
        assert set(pids) <= set(hold.pids)
        assert all(proc.is_suspended(pid) for pid in hold.pids)
        assert time.monotonic() - hold.since < 1
    assert not any(proc.is_suspended(pid) for pid in pids)
    probe.pair_once(host, "ada")


def test_what_was_held_goes_on_after_a_kill(native: Callable[..., Made]) -> None:
    """The process that held the unit is killed: the next consumer lets all of it go on."""
    box, host = native()
    pids = host.services.pids("ada")
    facts.write(host.journal, SUSPENDED, "ada")
    program = (
        "import sys, time; from t3flow.host.processes import suspension\n"
        "with suspension.suspended(lambda: [int(word) for word in sys.argv[1:]]):\n"
        "    print('held', flush=True); time.sleep(60)"
    )
    child = subprocess.Popen([sys.executable, "-c", program, *map(str, pids)], stdout=subprocess.PIPE)
    assert child.stdout is not None
    assert child.stdout.readline() == b"held\n"
    child.kill()
    child.wait()
    child.stdout.close()
    assert all(proc.is_suspended(pid) for pid in pids)
    resume_suspended(host)
    box.until(lambda: not any(proc.is_suspended(pid) for pid in pids), "all go on")
    assert facts.read(host.journal, SUSPENDED) is None
    resume_suspended(host)


def test_a_server_that_outlived_its_launcher_is_ended_before_a_start(native: Callable[..., Made]) -> None:
    """`KillMode=process`: it keeps the port and the database, and no stranger's is the fault."""
    box, host = native(kill_mode="process")
    orphan = probe.own_server(host, "ada")
    launcher = host.services.state("ada").main_pid
    assert launcher is not None
    os.kill(launcher, signal.SIGKILL)
    box.until(lambda: host.services.state("ada").main_pid != launcher, "the launcher is gone")
    host.services.stop("ada")
    assert probe.port_blocker(host, "ada") == ""
    box.until(lambda: not proc.is_alive(orphan), "what was left is ended")
    host.services.start("ada")
    verification.verify(host, "ada", FIRST, 20)
    assert probe.own_server(host, "ada") != orphan
    host.services.stop("ada")
    assert host.services.pids("ada") == []


def test_a_child_that_inherited_the_socket_is_not_the_server(native: Callable[..., Made]) -> None:
    _, host = native()
    pid = probe.own_server(host, "ada")
    pids = [*host.services.pids("ada"), os.getpid()]
    assert ports.listening_process(host.port("ada"), pids) == pid
    assert ports.listening_process(host.port("ada"), [os.getpid()]) is None


def test_a_server_of_an_unknown_kind_is_left_alone(native: Callable[..., Made]) -> None:
    """Its activity is in tables that nobody knows: not idle, in one line, said once in the log and noted for status."""
    box, host = native({**NATIVE, "rules": [{"fault": "unknown_activity"}]})
    found = look(host)
    assert (found.idle, found.waiting_for) == (False, "unreadable_state")
    assert "this t3 keeps its work in a way that this t3flow does not know" in found.detail
    [since, line] = facts.read(host.journal, facts.UNKNOWN_T3)["ada"]
    look(host)
    assert facts.read(host.journal, facts.UNKNOWN_T3)["ada"] == [since, line]
    assert f"ada is left alone: {line}; install a newer t3flow" in " ".join(box.t3flow("status").stdout.split())
    assert box.document("status")["users"]["ada"]["unknown"] == line


def test_a_server_without_a_session_document_is_a_doubt(native: Callable[..., Made]) -> None:
    """Nothing could be verified after an undo."""
    box, host = native()
    host.services.stop("ada")
    for file in (box.top / "opt/t3/versions").rglob("behavior.json"):
        file.write_text(json.dumps({**NATIVE, "rules": [{"fault": "no_session_document"}]}))
    host.services.start("ada")
    with pytest.raises(probe.UnknownServer):
        verification.verify(host, "ada", FIRST, 5)
    assert "does not say" in probe.unknown_server_problem(host, "ada")
    with pytest.raises(probe.UnknownServer):
        probe.cookie_name(host, "ada")


listed: list[str] | None = None


def _note(event: str, arguments: tuple[Any, ...]) -> None:
    if listed is not None and event in ("os.listdir", "os.scandir"):
        listed.append(str(arguments[0]))


@contextmanager
def noting_folders() -> Iterator[list[str]]:
    """Return the folders that this process lists meanwhile."""
    global listed
    sys.addaudithook(_note)
    listed = []
    try:
        yield listed
    finally:
        listed = None


def test_strangers_cost_nothing_while_the_unit_is_held(native: Callable[..., Made]) -> None:
    """No look at the list of the host's processes: ten thousand of others make no difference."""
    _, host = native()
    server = host.services.state("ada")
    with noting_folders() as folders, OwnerReader(host, "ada") as reader:
        with suspension.suspended(lambda: host.services.pids_of("ada", server)):
            unit = idle.inspect_unit(host, "ada", server)
            assert idle.judge(host, "ada", server, unit, reader, canary=True, ignore_processes=False).idle
        os.listdir("/proc/self")
    assert "/proc/self" in folders, "it would be noticed"
    with suppress(ValueError):
        folders.remove("/proc/self")
    assert [folder for folder in folders if folder.rstrip("/") == "/proc"] == []
