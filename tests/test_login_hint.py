"""The hint at login, in the shells that read /etc/profile.d."""

import os
import resource
import shutil
import subprocess
from pathlib import Path

import pytest

SCRIPT = Path(__file__).parents[1] / "deploy/login-hint.sh"
LINE = "t3: your server moves to …20260609.501 later: a turn is running; see t3flow me"
SHELLS = [shell for shell in ("dash", "bash", "sh") if shutil.which(shell)]
LIMIT_SECONDS = 0.005


@pytest.fixture
def profile(tmp_path: Path) -> Path:
    """Return the script for a state folder of this test."""
    path = tmp_path / "t3flow.sh"
    path.write_text(SCRIPT.read_text().replace("/var/lib/t3flow", str(tmp_path)))
    (tmp_path / "users/ada").mkdir(parents=True)
    return path


def login(
    shell: str, profile: Path, *, options: str = "", interactive: bool = True
) -> subprocess.CompletedProcess[str]:
    """Read the script as a login does, and report that the shell goes on."""
    script = f'set {options or "+e"}; . {profile}; echo "goes on $? ${{t3flow_hint-none}}"'
    words = [shell, "-i", "-c", script] if interactive else [shell, "-c", script]
    environment = {"USER": "ada", "PATH": os.environ["PATH"], "HOME": "/nonexistent"}
    return subprocess.run(
        words, env=environment, capture_output=True, text=True, errors="replace", check=False, timeout=10,
        stdin=subprocess.DEVNULL, start_new_session=True,
    )  # fmt: skip


@pytest.mark.parametrize("shell", SHELLS)
def test_one_line_if_something_waits_and_nothing_otherwise(shell: str, profile: Path) -> None:
    hint = profile.parent / "users/ada/hint"
    for options in ("", "-eu"):
        assert login(shell, profile, options=options).stdout == "goes on 0 none\n"
        hint.write_text("")
        assert login(shell, profile, options=options).stdout == "goes on 0 none\n"
        hint.write_text(f"{LINE}\n")
        assert login(shell, profile, options=options).stdout == f"{LINE}\ngoes on 0 none\n"
        assert login(shell, profile, options=options, interactive=False).stdout == "goes on 0 none\n", (
            "as scp and sftp do"
        )
        hint.unlink()


@pytest.mark.parametrize("shell", SHELLS)
def test_odd_files_fail_no_login(shell: str, profile: Path) -> None:
    """A FIFO, a folder, a link to nowhere, one without permission, binary, escapes, and without an end."""
    hint = profile.parent / "users/ada/hint"
    for make in (
        lambda: os.mkfifo(hint),
        hint.mkdir,
        lambda: hint.symlink_to("nowhere"),
        lambda: hint.symlink_to("/dev/zero"),
    ):
        make()
        assert login(shell, profile, options="-eu").stdout == "goes on 0 none\n"
        hint.rmdir() if hint.is_dir() and not hint.is_symlink() else hint.unlink()
    hint.write_bytes(b"\x00\x1b[2J\xff" * 100)
    assert "\x1b" not in login(shell, profile, options="-eu").stdout
    with hint.open("wb") as file:
        file.truncate(2**40)
    assert login(shell, profile, options="-eu").stdout.endswith("goes on 0 none\n")
    hint.unlink()
    hint.write_text("x" * 100_000)
    assert len(login(shell, profile).stdout) < 400


def test_it_costs_a_login_less_than_5_ms(profile: Path) -> None:
    """CPU time of the shell and its children, beyond that of a shell that reads nothing; the quickest of several, as a loaded machine slows any."""
    hint = profile.parent / "users/ada/hint"
    environment = {"USER": "ada", "PATH": os.environ["PATH"]}

    def quickest(script: str) -> float:
        took = []
        for _ in range(15):
            before = resource.getrusage(resource.RUSAGE_CHILDREN)
            subprocess.run(
                ["sh", "-ic", script],
                env=environment,
                capture_output=True,
                check=False,
                stdin=subprocess.DEVNULL,
                start_new_session=True,
            )
            after = resource.getrusage(resource.RUSAGE_CHILDREN)
            took.append(after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime)
        return min(took)

    without = quickest(":")
    assert quickest(f". {profile}") - without < LIMIT_SECONDS
    hint.write_text(f"{LINE}\n")
    assert quickest(f". {profile}") - without < LIMIT_SECONDS
