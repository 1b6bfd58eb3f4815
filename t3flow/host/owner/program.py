"""Run one command of `host/home/program.py` as the owner of a home."""

import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from t3flow.host.children import OutputTooLarge, TookTooLong
from t3flow.host.host import Host
from t3flow.host.owner.answers import OwnerProblem, one_line, parse_answer

PROGRAM = Path(__file__).parents[1] / "home" / "program.py"


def owner_command(command: str, base_dir: Path, *arguments: str) -> list[str]:
    """Return the command line of the program.

    The interpreter is isolated (`-I`), so that it imports nothing of the user's, and looks for no packages (`-S`), which would take longer than most
    commands do.
    """
    return [sys.executable, "-I", "-S", str(PROGRAM), command, str(base_dir), *arguments]


def run_as_owner(
    host: Host,
    user: str,
    command: str,
    *arguments: str,
    timeout_seconds: float | None = None,
    stdin: int = subprocess.DEVNULL,
    descriptors: Sequence[int] = (),
) -> dict[str, Any]:
    """Run one command as a user, with `descriptors` left open, and return its checked answer. Raises OwnerProblem with the reason.

    The default of `timeout_seconds` is `backup.timeout_s`.
    """
    try:
        finished = host.children.run(
            owner_command(command, host.base_dir(user), *arguments),
            account=host.account(user),
            timeout_seconds=timeout_seconds or float(host.settings.backup.timeout_s),
            stdin=stdin,
            descriptors=descriptors,
        )
    except (TookTooLong, OutputTooLarge) as error:
        raise OwnerProblem(f"working in the home of {user} failed: {error}") from error
    if finished.code < 0:
        raise OwnerProblem(
            f"working in the home of {user} failed: the program was killed by signal {-finished.code}, by its owner or because memory ran out; "
            "see journalctl -k"
        )
    if finished.code != 0:
        raise OwnerProblem(f"working in the home of {user} failed: {one_line(finished.last_line)}")
    return parse_answer(finished.stdout)
