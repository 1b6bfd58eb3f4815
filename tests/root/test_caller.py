"""Which person a command is recorded under."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
from world import World

SCRIPT = "from t3flow.host.caller import calling_account; print(calling_account())"


def said(words: list[str], **environment: str) -> str:
    clean = {key: value for key, value in os.environ.items() if key not in ("SUDO_USER", "USER", "LOGNAME")}
    command = [*words, sys.executable, "-c", SCRIPT]
    done = subprocess.run(
        command, env={**clean, **environment}, capture_output=True, text=True, check=True, cwd=Path(__file__).parents[2]
    )
    return done.stdout.strip()


def test_a_person_is_recorded_under_their_own_account(world: World) -> None:
    """Through sudo, the one that called it; root's shell is root; a user cannot claim another name by a variable."""
    assert said([], SUDO_USER="mallory") == "mallory"
    assert said([], USER="mallory") in ("root", _login())
    assert said(world.words(), SUDO_USER="ada", USER="ada", LOGNAME="ada") == "mallory"


def _login() -> str:
    import pwd

    try:
        return pwd.getpwuid(int(Path("/proc/self/loginuid").read_text())).pw_name
    except (OSError, ValueError, KeyError):
        return "root"


@pytest.mark.parametrize("uid", [61234])
def test_an_account_without_a_name_is_its_number(uid: int) -> None:
    words = ["setpriv", f"--reuid={uid}", f"--regid={uid}", "--clear-groups"]
    assert said(words) == f"uid {uid}"
