"""The files of users between root and real accounts: who can read, write, forge, and link what."""

import json
import os
import stat
import subprocess
import sys
import time
from pathlib import Path

from world import World

from t3flow.host import state_dir, user_files
from t3flow.host.records import wishes
from t3flow.service.requests import Requests
from t3flow.service.wishes import Wishes
from t3flow.state import actions, observed


def prepared(world: World) -> tuple[Wishes, Path]:
    """Return a consumer's reader of wishes that has looked once, and Mallory's folder."""
    folder = world.top / "state"
    state_dir.prepare(folder)
    observed.record(world.host)
    reader = Wishes(world.host, lambda run: None)
    reader.look()
    return reader, folder / "users/mallory"


def as_mallory(world: World, *words: str) -> subprocess.CompletedProcess[str]:
    environment = ["env", "-u", "COLUMNS", f"T3FLOW_CONFIG={world.box.config}"]
    command = world.words(*environment, sys.executable, "-m", "t3flow", *words)
    return subprocess.run(command, capture_output=True, text=True, check=False, cwd="/", timeout=60)


def test_each_user_has_two_files_of_their_own_and_nothing_else(world: World) -> None:
    """Mallory reads and writes his own, reads none of Ada's, and can create, remove, rename and link nothing."""
    _, his = prepared(world)
    hers = his.with_name("ada")
    for folder, user in ((his, "mallory"), (hers, "ada")):
        status = folder.stat()
        assert (stat.S_IMODE(status.st_mode), status.st_uid) == (0o711, 0)
        for name, mode in (("me.json", 0o400), ("wish.json", 0o600), ("hint", 0o400)):
            status = (folder / name).stat()
            assert (stat.S_IMODE(status.st_mode), status.st_uid) == (mode, world.uids[user]), name
    assert json.loads((hers / "me.json").read_text())["user"] == "ada"
    words = [f"{kind}:{hers / name}" for kind in ("read", "write") for name in ("me.json", "wish.json", "hint")]
    words += [f"{kind}:{folder}" for kind in ("list", "make") for folder in (his, hers, his.parent)]
    words += [f"remove:{his / name}" for name in ("me.json", "wish.json", "hint")]
    words += [f"write:{his.parent / 'alive'}", f"remove:{his.parent / 'alive'}"]
    assert json.loads(world.does("attempts", *words)) == []
    allowed = [f"read:{his / 'me.json'}", f"write:{his / 'wish.json'}", f"read:{his.parent / 'alive'}"]
    assert json.loads(world.does("attempts", *allowed)) == allowed, "the control: what he may do"
    world.nothing_happened()


def test_his_wish_is_his_alone(world: World) -> None:
    """A wish of his own by the real command is granted under his name; he cannot make one for Ada, whatever he writes."""
    reader, his = prepared(world)
    asked = subprocess.Popen(
        world.words(
            "env", f"T3FLOW_CONFIG={world.box.config}", sys.executable, "-m", "t3flow", "me", "later"
        ),
        stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, cwd="/",
    )  # fmt: skip
    while asked.poll() is None:
        reader.look()
        time.sleep(0.05)
    assert asked.returncode == 0, asked.stdout.read() if asked.stdout else ""
    assert wishes.wish_of(world.host.journal, "mallory").kind == "later"
    [entry] = actions.recent(world.host.journal)
    assert (entry["by"], entry["via"], entry["action"]) == ("mallory", "user", "me later")
    forged = {"schema": 1, "id": "c" * 32, "wish": "now", "user": "ada"}
    script = f"echo '{json.dumps(forged)}' > {his / 'wish.json'}"
    subprocess.run(world.words("sh", "-c", script), check=True)
    reader.look()
    assert wishes.wish_of(world.host.journal, "ada").kind == ""
    assert "mallory" in as_mallory(world, "me", "--json").stdout
    world.nothing_happened()


def test_odd_things_in_place_of_his_wish(world: World) -> None:
    """Even if the folder were his: links, FIFOs, devices, huge files, several names, another's file. Each is ignored at once."""
    reader, his = prepared(world)
    target = his.with_name("ada") / "wish.json"
    target.write_text(json.dumps({"schema": 1, "id": "d" * 32, "wish": "later", "until": "2999-01-01"}))
    os.chown(his, world.uids["mallory"], world.uids["mallory"])
    os.chmod(his, 0o777)
    (his / "wish.json").rename(his / "own")
    (his / "own").write_text(json.dumps({"schema": 1, "id": "e" * 32, "wish": "cancel"}))
    for kind in ("symlink", "fifo", "folder", "hardlink", "sparse", "device"):
        if kind == "device":
            (his / "wish.json").unlink(missing_ok=True)
            os.mknod(his / "wish.json", 0o20666, os.makedev(1, 5))
        else:
            world.does("put", kind, his / "wish.json", target if kind == "symlink" else his / "own")
        began = time.monotonic()
        reader._allowance.clear()
        reader.look()
        assert time.monotonic() - began < 1, kind
        assert wishes.wish_of(world.host.journal, "mallory").id == "", kind
        path = his / "wish.json"
        path.rmdir() if path.is_dir() and not path.is_symlink() else path.unlink()
    assert [each["result"] for each in actions.recent(world.host.journal) if each["by"] != "mallory"] == [
        "refused: 2999-01-01 is more than ten years ahead: write for example 2026-12-24 or '2026-12-24 18:00'"
    ]
    (his / "own").rename(his / "wish.json")
    reader._allowance.clear()
    reader.look()
    assert wishes.wish_of(world.host.journal, "mallory").id == "e" * 32, "the control: the same file under its one name"
    (his / "wish.json").unlink()
    fresh = Wishes(world.host, lambda run: None)  # as a restarted consumer: the file is back, and his again
    fresh.look()
    assert (his / "wish.json").stat().st_uid == world.uids["mallory"]
    world.nothing_happened()


def test_root_and_strangers_get_one_line(world: World) -> None:
    prepared(world)
    environment = {**os.environ, "T3FLOW_CONFIG": str(world.box.config)}
    for words in (["me"], ["me", "now"], ["me", "later"]):
        text = world.box.config.read_text().replace('backend = "process"', 'backend = "systemd"')
        world.box.config.write_text(text)
        said = subprocess.run(
            [sys.executable, "-m", "t3flow", *words], env=environment, capture_output=True, text=True, check=False
        )
        assert (said.returncode, said.stderr.count("\n")) == (2, 1), said
        assert "root has no t3 server of its own" in said.stderr
    (world.top / "etc/user-map").write_text("ada=ada\n")
    gone = world.top / "state/users/mallory"
    subprocess.run(["rm", "-r", str(gone)], check=True)
    said = as_mallory(world, "me", "now")
    assert (said.returncode, said.stdout, said.stderr.count("\n")) == (2, "", 1), said
    assert "mallory is not a user of t3 on this host" in said.stderr
    world.nothing_happened()


def test_requests_of_another_account_are_rubbish(world: World) -> None:
    """Only the page's account can write there; a file of root's or of a user's in its place is removed and does nothing."""
    folder = world.top / "state"
    state_dir.prepare(folder)
    requests = folder / "requests"
    world.box.config.write_text(world.box.config.read_text() + '[web]\nadmins = ["boss"]\n')
    from t3flow.host.host import open_host

    host = open_host(world.box.settings, world.host.journal)
    asked = {
        "schema": 1, "id": "a" * 32, "at": time.strftime("%Y-%m-%dT%H:%M:%S+00:00", time.gmtime()), "identity": "boss",
        "action": "freeze", "reason": "x",
    }  # fmt: skip
    path = requests / f"{'a' * 32}.json"
    for uid in (0, world.uids["mallory"]):
        path.write_text(json.dumps(asked))
        os.chown(path, uid, uid)
        Requests(host, lambda run: None).look()
        assert not path.exists()
        assert not host.settings.paths.freeze_file.exists()
    page = state_dir.page_ids()[0]
    path.write_text(json.dumps(asked))
    os.chown(path, page, page)
    Requests(host, lambda run: None).look()
    assert host.settings.paths.freeze_file.exists(), "the control: the page's own request"
    assert user_files.silent_seconds(folder) is not None, "no consumer of the whole runs here"


def test_settings_that_only_root_may_read(world: World) -> None:
    """As with a password in them: the defaults do for `me`, which here finds no such folder, in one line."""
    prepared(world)
    world.box.config.chmod(0o600)
    said = as_mallory(world, "me")
    assert (said.returncode, said.stdout, said.stderr.count("\n")) in ((4, "", 1), (2, "", 1)), said
    assert said.stderr.startswith(("t3flow: no consumer is running", "t3flow: mallory is not a user")), said
    world.nothing_happened()
