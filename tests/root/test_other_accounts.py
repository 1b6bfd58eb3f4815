"""Attacks on other accounts: their ports, backups, journal, queue, slots, and the Node that runs."""

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
from conftest import redis_program
from world import HOSTILE, World

from t3flow.engine.files import claim_folder
from t3flow.engine.queue import open_queue, queue_key
from t3flow.host import slots
from t3flow.host.owner.answers import OwnerProblem
from t3flow.host.owner.reader import OwnerReader
from t3flow.host.pairing import probe
from t3flow.host.processes import ports
from t3flow.host.slots import creation
from t3flow.host.slots.launcher import install_launcher
from t3flow.service.consumer import create_state_dir
from t3flow.t3 import processes

ROOT = Path(__file__).parents[2]


@pytest.mark.parametrize(
    ("address", "how", "words"),
    [
        ("127.0.0.1", "listens", r"mallory \(pid \d+, python[\d.]*\) on 127\.0\.0\.1"),
        ("127.0.0.2", "listens", r"mallory \(pid \d+, python[\d.]*\) on 127\.0\.0\.2"),
        ("0.0.0.0", "binds", r"mallory \(pid \d+, python[\d.]*\), which does not listen"),
        ("::1", "listens", ""),
    ],
)
def test_another_users_port_in_his_hands_is_found_and_named(world: World, address: str, how: str, words: str) -> None:
    """He takes the port while her server is down: he is named, even if he only binds it. A listener on ::1 blocks no server."""
    none = list[int]()
    port = world.box.ports["ada"]
    assert ports.port_blocker(port, none) == ""
    world.says("listen", port, address, how)
    found = ports.port_blocker(port, none)
    assert re.fullmatch(words, found), found
    world.nothing_happened()
    assert ports.port_blocker(port, none) == ""


def test_a_container_that_binds_the_same_number_is_not_named(world: World) -> None:
    """A port of another network namespace is another port: the process that blocks hers is named, though the other one has a lower pid."""
    port = world.box.ports["ada"]
    words = ["unshare", "--net", "--", sys.executable, "-I", str(HOSTILE), "listen", str(port), "0.0.0.0", "binds"]
    with subprocess.Popen(words, stdout=subprocess.PIPE) as container:
        assert container.stdout is not None
        container.stdout.readline()
        world.says("listen", port, "0.0.0.0", "binds")
        assert ports.port_blocker(port, []).startswith("mallory ")
        container.kill()
    world.nothing_happened()


def test_a_listener_of_his_beside_her_server_is_named(world: World) -> None:
    """She still pairs with her own server, and the other listener is named."""
    port = world.box.ports["ada"]
    words = [sys.executable, "-I", str(HOSTILE), "listen", str(port), "0.0.0.0"]
    with subprocess.Popen(words, stdout=subprocess.PIPE) as hers:
        assert hers.stdout is not None
        hers.stdout.readline()
        server = [hers.pid]
        assert ports.foreign_listeners(port, server) == ""
        world.says("listen", port, "::1")
        assert ports.is_owned_by(port, server)
        assert re.fullmatch(r"mallory \(pid \d+, python[\d.]*\) on ::1", ports.foreign_listeners(port, server))
        hers.kill()
    world.nothing_happened()


def test_he_does_not_get_a_credential_of_hers(world: World) -> None:
    """While he has her port and her server is down, t3flow never makes the dispatch hand him one."""
    world.says("listen", world.box.ports["ada"], "127.0.0.1")
    world.box.start_supervisor()
    try:
        with pytest.raises(probe.PortTaken, match=r"of ada is taken by mallory \(pid \d+, python"):
            probe.pair_once(world.host, "ada")
    finally:
        world.box.close()
    world.nothing_happened()


@pytest.mark.parametrize("is_open", [False, True])
def test_rubbish_in_the_queues_redis(world: World, is_open: bool) -> None:
    """With the shipped settings he cannot open the socket. If he can, his messages are dropped and the real ones arrive."""
    folder = world.top / "redis"
    folder.mkdir()
    shipped = (ROOT / "deploy/redis/redis.conf").read_text()
    [mode] = re.findall(r"^unixsocketperm (\d+)$", shipped, re.MULTILINE)
    words = ["--port", "0", "--unixsocket", f"{folder}/s", "--unixsocketperm", "777" if is_open else mode]
    server = subprocess.Popen([redis_program(), *words, "--save", "", "--dir", folder], stdout=subprocess.DEVNULL)
    try:
        world.box.until((folder / "s").exists, "Redis listens")
        create_state_dir(world.top / "state")
        seen: list[str] = []
        queue = open_queue(f"unix://{folder}/s", queue_key(world.top / "state/queue.key"))
        queue.register(seen.append, ())
        queue.send("run-1")
        assert world.does("push", f"{folder}/s", queue.storage.queue_key, 100).strip() == (
            "written" if is_open else "closed"
        )
        while (task := queue.dequeue()) is not None:
            queue.execute(task)
        assert (seen, queue.dropped) == (["run-1"], 300 if is_open else 0)
    finally:
        server.kill()
        server.wait()
    world.nothing_happened()


@pytest.mark.parametrize("command", ["runs", "status", "deferrals", "freeze", "doctor"])
def test_the_journal_is_not_his_to_ask(world: World, command: str) -> None:
    """The command line names the account that may, in one message, and prints none of the content."""
    create_state_dir(world.top / "state")
    words = world.words(
        "env", "-u", "COLUMNS", f"T3FLOW_CONFIG={world.box.config}", sys.executable, "-m", "t3flow", command
    )
    said = subprocess.run(words, capture_output=True, text=True, check=False, cwd="/")
    assert (said.returncode, said.stdout) == (1, ""), said
    path = world.top / "state" / "journal.db"
    assert said.stderr == f"t3flow: only root may use {path}; run: sudo t3flow {command}\n"
    world.nothing_happened()


def test_what_is_others_is_closed_to_him(world: World) -> None:
    """Journal, queue, key, other backups, slots, links, launcher, freeze file: secrets are not readable, and nothing is writable."""
    top = world.top
    create_state_dir(top / "state")
    queue = open_queue(f"sqlite://{top}/state/queue.db", queue_key(top / "state/queue.key"))
    queue.register(lambda run: None, ())
    queue.send("run-1")
    tree = fake_slot(world)
    install_launcher(top / "bin/t3", top / "opt/t3", sandbox=False)
    of_ada = world.take("ada")
    scratch = top / "scratch/t3flow-run-1"
    claim_folder(scratch, 0o711)
    with OwnerReader(world.host, "ada") as reader:
        secret = [of_ada, top / "state/journal.db", top / "state/queue.db", top / "state/queue.key", world.secret]
        secret += [
            top / "state/journal.db-wal",
            Path(f"/proc/{os.getpid()}/environ"),
            Path(f"/proc/{reader._child.pid}/environ"),
        ]
        folders = [of_ada.parent, top / "backups", top / "backups/.incoming", top / "state", scratch]
        ours = [top / "opt/t3/versions/1.0.0", tree, top / "opt/t3/users/mallory", top / "bin/t3", top / "etc/user-map"]
        words = [f"{kind}:{path}" for path in secret for kind in ("read", "write")]
        words += [f"list:{path}" for path in folders]
        words += [f"make:{path}" for path in (*folders, ours[0], top / "opt/t3/users", top / "bin", top / "etc", top)]
        words += [f"remove:{path}" for path in (*ours, of_ada, scratch)] + [
            f"write:{ours[1]}",
            f"write:{ours[3]}",
            f"write:{ours[4]}",
        ]
        words += [f"signal:{pid}" for pid in (os.getpid(), reader._child.pid)]
        assert json.loads(world.does("attempts", *words)) == []
        allowed = [f"read:{tree}", f"list:{top / 'opt/t3/users'}", f"make:{world.home('mallory')}"]
        assert json.loads(world.does("attempts", *allowed)) == allowed, "the control: what he may do"
        with pytest.raises(OwnerProblem, match="none of its databases"):
            reader.read([], 5)  # it was not disturbed
    assert len(queue.message_ids()) == 1
    world.nothing_happened()


def fake_slot(world: World) -> Path:
    """Create a slot whose program prints its Node, and Mallory's link to it; return the program."""
    tree = world.top / "tree"
    program = tree / processes.PROGRAM
    program.parent.mkdir(parents=True)
    program.write_text("#!/usr/bin/env node\nconsole.log(process.execPath, process.argv.slice(2).join())\n")
    program.chmod(0o755)
    node = world.top / "tools/node"
    made = creation.create_slot(world.top / "opt/t3", "1.0.0", tree, Path(os.path.realpath(node)), {})
    slots.assign(world.top / "opt/t3", "mallory", "1.0.0")
    return made / processes.PROGRAM


def test_a_wrong_node_first_in_his_path_runs_nothing(world: World) -> None:
    """The launcher runs the slot's Node."""
    fake_slot(world)
    install_launcher(world.top / "bin/t3", world.top / "opt/t3", sandbox=False)
    bad = world.home("mallory") / "bin"
    bad.mkdir()
    (bad / "node").write_text("#!/bin/sh\necho wrong\n")
    (bad / "node").chmod(0o755)
    words = world.words("env", f"PATH={bad}:/usr/bin:/bin", str(world.top / "bin/t3"), "--version")
    said = subprocess.run(words, capture_output=True, text=True, check=True).stdout
    assert said == f"{os.path.realpath(world.top / 'tools/node')} --version\n"
    world.nothing_happened()
