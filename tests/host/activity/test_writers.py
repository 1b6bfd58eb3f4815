"""What people are told of processes that write into a user's databases: names that other accounts chose."""

import os
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path

from t3flow.deferrals import blockers
from t3flow.host.activity import writers
from t3flow.host.host import Host


def test_a_program_whose_name_is_no_text(bare: Callable[..., Host], tmp_path: Path) -> None:
    """SQLite refuses such a text, so that the restart failed as if the host were at fault, and no other deferred user was moved for a while."""
    host = bare()
    program = os.fsencode(tmp_path) + b"/sl\xffee\np"
    shutil.copy(shutil.which("sleep") or "/bin/sleep", program)
    with subprocess.Popen([program, "60"]) as process:
        try:
            found = writers._describe_process(process.pid)
        finally:
            process.kill()
    assert found == f"sl?ee?p (pid {process.pid})"
    assert blockers.note(host.journal, "ada", blockers.WRITTEN, found) == 1
