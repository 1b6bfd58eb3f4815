"""Installs by root: npm and the package's scripts run as the gate's account, with only those settings of root that reach the registry."""

import os
import shutil
import subprocess
import sys
import time
from contextlib import suppress
from dataclasses import replace
from pathlib import Path

import pytest
from origins import installed, of
from test_releases import HARMFUL, NATIVE, PART, VERSION, package
from world import HOSTILE, World

from t3flow.host import gate_account, slots
from t3flow.host.accounts import Account
from t3flow.host.cells import cells
from t3flow.host.host import Host
from t3flow.host.processes import listing, proc
from t3flow.host.slots import creation

TOKEN = "only-root-may-know-this"


def test_a_release_in_parts_is_installed_by_the_gates_account(world: World) -> None:
    """Complete, with root's token; scripts run without it, an optional package whose script fails is removed, nothing belongs to root."""
    box = world.box
    os.chmod(box.top / "scratch", 0o711)
    box.start_registry()
    for name, script in (("helper", "id -u > built; env > said"), ("maybe", "exit 3")):
        of(box).publish("1.0.0", package(box.top / "made", name, "1.0.0", scripts={"install": script}))
    inner = package(box.top / "made", "inner", "1.0.0", optionalDependencies={"maybe": "1.0.0"})
    of(box).publish("1.0.0", inner)
    box.publish(VERSION, NATIVE, manifest={"dependencies": {"helper": "1.0.0", "inner": "1.0.0"}})
    box.enable_signatures()
    of(box).require_token(TOKEN)
    npmrc = box.top / "home/.npmrc"
    lines = [
        f"//127.0.0.1:{box.registry_port}/:_authToken={TOKEN}",
        *(f"{key} = {value}" for key, value in HARMFUL.items()),
    ]
    npmrc.write_text("\n".join(lines))
    npmrc.chmod(0o600)
    umask = os.umask(0o022)
    try:
        found = installed(box, VERSION, keep=True)
        modules = box.top / "scratch/one/prefix/node_modules"
        assert isinstance(found, dict), found
        assert (found["signatures"], found["left_out"]) == ("verified", ["maybe@1.0.0"])
        assert (modules / PART / "t3").exists()
        assert (modules / "helper/built").read_text().strip() == str(world.uids["t3flow"])
        assert TOKEN not in (modules / "helper/said").read_text()
        assert not (modules / "maybe").exists()
        assert {path.lstat().st_uid for path in _all(modules)} == {world.uids["t3flow"]}
        of(box).set_faults(status=404, only="tarball", package=PART)
        assert "is not complete in the registry yet: E404" in str(installed(box, VERSION))
    finally:
        os.umask(umask)
        shutil.rmtree(box.top / "scratch/one", ignore_errors=True)


def _all(top: Path) -> list[Path]:
    return [top, *top.rglob("*")]


def test_a_folder_that_is_swapped_for_a_link_is_never_followed(world: World) -> None:
    """Swaps deep in the tree while root copies it: the copy contains only the tree, or fails because the tree changes. No slot has root's secret."""
    aim = world.top / "state/aim"
    (aim / "inner").mkdir(parents=True)
    (aim / "inner/data").write_text(world.token)
    tree = world.top / "tree"
    for number in range(60):
        inner = tree / f"node_modules/t3/swapped/inner{number}"
        inner.mkdir(parents=True)
        (aim / f"inner{number}").mkdir()
        for name in ("data", "more"):
            (inner / name).write_text("mine")
            (aim / f"inner{number}" / name).write_text(world.token)
    (tree / "node_modules/.bin").mkdir()
    os.chmod(world.top / "state", 0o711)
    subprocess.run(["chown", "-R", str(world.uids["mallory"]), str(tree)], check=True)
    world.says("swap_folder", tree / "node_modules/t3/swapped", aim)
    copied, refused = 0, 0
    deadline = time.monotonic() + 8
    while time.monotonic() < deadline:
        shutil.rmtree(world.top / "slots", ignore_errors=True)
        said = what_is_said_of(world, tree)
        copied, refused = copied + (not said), refused + bool(said)
        words = ("changes while it is copied", "leads out", "not its installer's")
        assert not said or any(each in said for each in words), said
        found = subprocess.run(["grep", "-rl", world.token, str(world.top / "slots")], capture_output=True, check=False)
        assert found.stdout == b"", f"after {copied} copies and {refused} refusals"
    assert refused
    world.nothing_happened()


def what_is_said_of(world: World, tree: Path) -> str:
    """Return why a tree is not copied into a slot, or ""."""
    try:
        creation.create_slot(world.top / "slots", "1.0.0", tree, Path("/bin/sh"), {})
        return ""
    except slots.SlotError as error:
        return str(error)


@pytest.mark.parametrize("no_account", [gate_account.NO_ACCOUNT, 2**32], ids=["", "in-a-namespace-of-few-ids"])
@pytest.mark.parametrize("deed", ["survive", "breed"])
def test_nothing_of_the_gates_account_outlives_an_install(
    world: World, deed: str, no_account: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Neither a process in its own session, orphaned, ignoring SIGTERM and hidden, nor one that forks faster than /proc can be read."""
    monkeypatch.setattr(gate_account, "NO_ACCOUNT", no_account)
    host = gates_account_is(world, "mallory")
    line = world.top / "line"
    line.touch()
    os.chown(line, world.uids["mallory"], -1)
    stranger = subprocess.Popen(["sleep", "60"])
    ada = subprocess.Popen(["setpriv", f"--reuid={world.uids['ada']}", "--clear-groups", "sleep", "60"])
    try:
        if deed == "breed":
            world.says(deed, 30)
        else:
            world.does(deed, 30, line)
            while not line.read_text():
                time.sleep(0.01)
        began = time.monotonic()
        gate_account.end_processes(host)
        assert time.monotonic() - began < gate_account.END_SECONDS
        assert [pid for pid in listing.pids_of_account(world.uids["mallory"]) if proc.is_alive(pid)] == []
        size = line.stat().st_size
        time.sleep(0.1)
        assert line.stat().st_size == size
        assert (stranger.poll(), ada.poll()) == (None, None), "nobody else is touched"
        assert gate_account.end_processes(host) == 0
    finally:
        for child in (stranger, ada):
            child.kill()
            child.wait()
    world.nothing_happened()


def test_an_account_that_others_share_is_left_alone(world: World) -> None:
    host = gates_account_is(world, "mallory", mapped=True)
    child = world.begins("breed", 5)
    assert child.stdout is not None
    child.stdout.readline()
    assert "an account in the user map" in gate_account.sharing_problem(host)
    assert gate_account.end_processes(host) == 0


def test_a_container_with_processes_of_the_same_number_is_left_alone(world: World) -> None:
    """Like those of a database whose image uses the uid that this host gave to the gate's account. t3flow did not start them."""
    host = gates_account_is(world, "mallory")
    uid = world.uids["mallory"]
    made = f"setsid unshare --pid --mount-proc --fork setpriv --reuid={uid} --clear-groups sleep 60 &"
    subprocess.run(["sh", "-c", made], check=True, stdout=subprocess.DEVNULL)
    there: list[int] = []
    try:
        deadline = time.monotonic() + 10
        while not there and time.monotonic() < deadline:
            time.sleep(0.02)
            there = listing.in_containers(listing.pids_of_account(uid))
        assert "in a container also runs under uid" in gate_account.sharing_problem(host)
        assert gate_account.end_processes(host) == 0
        assert [proc.is_alive(pid) for pid in there] == [True]
    finally:
        for pid in there:
            os.kill(pid, 9)
        while any(proc.is_alive(pid) for pid in there):
            time.sleep(0.01)


def test_a_person_is_left_alone(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    """Also an account that is not in the user map, such as an administrator."""
    host = gates_account_is(world, "mallory")
    assert gate_account.sharing_problem(host) == ""
    monkeypatch.setattr(gate_account, "LOGIN_UIDS", range(world.uids["mallory"], world.uids["mallory"] + 1))
    assert "an account with a login shell" in gate_account.sharing_problem(host)


def test_a_child_of_an_install_script_is_gone_before_anything_is_copied(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Without cells. It would continue to write into the tree."""
    box = world.box
    os.chmod(box.top / "scratch", 0o711)
    box.start_registry()
    script = f"{sys.executable} -I {HOSTILE} survive 60 $PWD/../helper/line"
    of(box).publish("1.0.0", package(box.top / "made", "helper", "1.0.0", scripts={"install": script}))
    box.publish(VERSION, NATIVE, manifest={"dependencies": {"helper": "1.0.0"}})
    monkeypatch.setattr(cells, "isolation", lambda host: cells.Isolation([], "no cells in this test"))
    umask = os.umask(0o022)
    try:
        found = installed(box, VERSION, keep=True)
        assert isinstance(found, dict), found
        assert found["in_reach_of_scripts"] == "no cells in this test"
        line = box.top / "scratch/one/prefix/node_modules/helper/line"
        left = [pid for pid in listing.pids_of_account(world.uids["t3flow"]) if proc.is_alive(pid)]
        assert left == []
        size = line.stat().st_size if line.exists() else 0
        time.sleep(0.2)
        assert (line.stat().st_size if line.exists() else 0) == size
    finally:
        os.umask(umask)
        for pid in listing.pids_of_account(world.uids["t3flow"]):
            with suppress(ProcessLookupError):
                os.kill(pid, 9)
        shutil.rmtree(box.top / "scratch/one", ignore_errors=True)


def gates_account_is(world: World, user: str, *, mapped: bool = False) -> Host:
    """Return the host with a gate account of the test."""
    if not mapped:
        path = world.host.settings.paths.user_map
        path.write_text("".join(line for line in path.read_text().splitlines(True) if user not in line))
    settings = world.host.settings
    host = replace(world.host, settings=settings._replace(gate=settings.gate._replace(user=user)))
    assert isinstance(host.gate_account(), Account)
    return host
