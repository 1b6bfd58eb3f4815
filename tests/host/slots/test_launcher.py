"""The launcher: every user gets the assigned version or a clear error, never another version."""

import os
import subprocess
from pathlib import Path

import pytest

from t3flow.host import slots
from t3flow.host.slots import creation
from t3flow.host.slots.launcher import (
    STARTING_MINUTES,
    drop_former_launcher,
    former_path,
    install_launcher,
    keep_former_launcher,
    launcher_text,
)


@pytest.fixture
def host(tmp_path: Path) -> Path:
    """Two slots whose program prints its arguments, a default, and the launcher."""
    for version in ("1.0.0", "2.0.0"):
        tree = tmp_path / "tree" / version
        (tree / "node_modules" / ".bin").mkdir(parents=True)
        program = tree / "node_modules" / ".bin" / "t3"
        program.write_text(f'#!/bin/sh\necho "{version} $*"\n')
        program.chmod(0o755)
        creation.create_slot(tmp_path, version, tree, Path("/bin/sh"), {})
    slots.set_default(tmp_path, "1.0.0")
    install_launcher(tmp_path / "t3", tmp_path, sandbox=True)
    return tmp_path


def run(host: Path, user: str, *words: str) -> subprocess.CompletedProcess[str]:
    environment = {"PATH": "/usr/bin:/bin", "T3FLOW_SANDBOX_USER": user}
    return subprocess.run([host / "t3", *words], env=environment, capture_output=True, text=True, check=False)


def test_what_was_kept_aside_goes_only_while_it_is_in_place_itself(tmp_path: Path) -> None:
    """An adoption undone before its last step keeps no launcher aside; after that step, the former launcher is the way back."""
    path = tmp_path / "t3"
    path.symlink_to("../lib/t3.js")
    keep_former_launcher(path)
    assert former_path(path).readlink() == path.readlink()
    drop_former_launcher(path)
    drop_former_launcher(path)
    assert list(tmp_path.iterdir()) == [path]
    keep_former_launcher(path)
    install_launcher(path, tmp_path, sandbox=True)
    drop_former_launcher(path)
    assert former_path(path).readlink() == Path("../lib/t3.js")


def test_an_assigned_account_gets_its_version(host: Path) -> None:
    slots.assign(host, "ada", "2.0.0")
    assert run(host, "ada", "serve", "a b", "*").stdout == "2.0.0 serve a b *\n"
    assert run(host, "grace", "x").stdout == "1.0.0 x\n", "without a link: the default"


def test_a_node_that_expected_the_former_script_runs_the_assigned_version(host: Path) -> None:
    """The kernel reads the first line, the interpreter opens the path anew: a mint that starts while the launcher is replaced meets it with Node."""
    slots.assign(host, "ada", "2.0.0")
    environment = {"PATH": os.environ["PATH"], "T3FLOW_SANDBOX_USER": "ada"}

    def by_node(*words: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            ["node", host / "t3", *words], env=environment, capture_output=True, text=True, check=False
        )

    assert by_node("auth", "a b", "*").stdout == "2.0.0 auth a b *\n"
    slots.note_starting(host, "ada")
    assert by_node("auth").returncode == 75


def test_nothing_opens_the_database_under_a_server_that_starts(host: Path) -> None:
    """A minting would migrate the database and hold its lock for too long. The server itself, other commands and other accounts run."""
    slots.assign(host, "ada", "2.0.0")
    slots.note_starting(host, "ada")
    for words in (["auth", "pairing", "create"], ["pair"], ["--base-dir", "/x", "auth", "session", "list"]):
        said = run(host, "ada", *words)
        assert (said.returncode, said.stdout) == (75, "")
        assert said.stderr == "t3: the server of ada is starting; try again in a moment\n"
    assert run(host, "ada", "serve", "--port", "1").stdout == "2.0.0 serve --port 1\n"
    assert run(host, "ada", "--version").returncode == 0
    assert run(host, "grace", "auth").returncode == 0
    assert slots.links(host) == {"ada": "2.0.0"}
    slots.remove_starting(host, "ada")
    slots.remove_starting(host, "ada")
    assert run(host, "ada", "auth").stdout == "2.0.0 auth\n"


def test_a_mark_that_a_kill_left_behind_ends_by_itself(host: Path) -> None:
    """Users can pair again soon, whatever happens to t3flow."""
    slots.assign(host, "ada", "2.0.0")
    slots.note_starting(host, "ada")
    mark = host / "users" / ".ada.starting"
    before = mark.stat().st_mtime - 60 * (STARTING_MINUTES + 1)
    os.utime(mark, (before, before))
    assert run(host, "ada", "auth").returncode == 0


def test_hold_means_being_restored(host: Path) -> None:
    slots.assign(host, "ada", slots.RESTORING)
    said = run(host, "ada", "auth")
    assert said.returncode == 75
    assert "being restored" in said.stderr


@pytest.mark.parametrize(
    "target", ["../versions/9.9.9", "/etc", "../../../../bin", "../versions/../../evil", "nothing"]
)
def test_an_odd_link_is_an_error_never_the_default(host: Path, target: str) -> None:
    slots.assign(host, "ada", "2.0.0")
    link = host / "users" / "ada"
    link.unlink()
    link.symlink_to(target)
    said = run(host, "ada", "--version")
    assert said.returncode == 75
    assert said.stdout == ""
    assert "t3flow doctor" in said.stderr


def test_a_slot_outside_is_refused_even_if_it_works(host: Path) -> None:
    evil = host / "evil"
    (evil / "node_modules" / ".bin").mkdir(parents=True)
    for name in ("node_modules/.bin/t3", ".node"):
        (evil / name).write_text("#!/bin/sh\necho evil\n")
        (evil / name).chmod(0o755)
    (host / "users").mkdir(exist_ok=True)
    (host / "users" / "ada").symlink_to("../evil")
    said = run(host, "ada", "x")
    assert (said.returncode, said.stdout) == (75, "")


def test_a_file_in_place_of_the_link_is_an_error(host: Path) -> None:
    (host / "users").mkdir(exist_ok=True)
    (host / "users" / "ada").write_text("1.0.0")
    assert run(host, "ada", "x").returncode == 75


def test_odd_folders_are_quoted(tmp_path: Path) -> None:
    odd = tmp_path / "a b'c$(id)"
    odd.mkdir()
    (odd / "check").write_text(launcher_text(odd, sandbox=True))
    assert subprocess.run(["sh", "-n", odd / "check"], check=False).returncode == 0
    install_launcher(odd / "t3", odd, sandbox=True)
    assert run(odd, "ada").returncode == 75


def test_root_runs_nothing_of_a_slot(host: Path) -> None:
    """As root, `--version` is answered from the slot's name and everything else is refused. `id` on PATH names the caller."""
    fake = host / "fake"
    fake.mkdir()
    (fake / "id").write_text("#!/bin/sh\necho 0\n")
    (fake / "id").chmod(0o755)
    environment = {"PATH": f"{fake}:/usr/bin:/bin", "T3FLOW_SANDBOX_USER": "ada"}
    said = subprocess.run([host / "t3", "--version"], env=environment, capture_output=True, text=True, check=False)
    assert (said.returncode, said.stdout) == (0, "t3 v1.0.0\n")
    said = subprocess.run([host / "t3", "serve"], env=environment, capture_output=True, text=True, check=False)
    assert (said.returncode, said.stdout) == (77, "")
    assert "runuser" in said.stderr


def test_assigning_is_one_rename_that_readers_never_miss(host: Path) -> None:
    """A constant reader sees one version or the other."""
    import threading

    slots.assign(host, "ada", "1.0.0")
    seen: set[str | None] = set()
    stop = threading.Event()

    def look() -> None:
        while not stop.is_set():
            seen.add(slots.assigned(host, "ada"))

    thread = threading.Thread(target=look)
    thread.start()
    for number in range(300):
        slots.assign(host, "ada", ("1.0.0", "2.0.0")[number % 2])
    stop.set()
    thread.join()
    assert seen == {"1.0.0", "2.0.0"}
    assert not [entry for entry in os.listdir(host / "users") if entry != "ada"]
