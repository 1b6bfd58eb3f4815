"""Cells: closed worlds for code from the registry, in namespaces of their own. What is inside is built by `world.py`.

A cell has its own network (but for install scripts, which may need to compile against what they fetch), processes, mounts and account; it sees
the system's programs and what it is shown, and no home, backup, journal, queue or secret. It dies with whoever made it.
"""

import json
import os
import shutil
import sys
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import t3flow
from t3flow import T3flowError
from t3flow.host.accounts import command_as, is_root
from t3flow.host.children import ChildError, TookTooLong
from t3flow.host.host import Host

PACKAGE = Path(t3flow.__file__).parent
PYTHON = Path(os.path.realpath(sys.executable))
PROBE_SECONDS = 20.0
MEMORY_BYTES = 2 * 1024**3
TMP_BYTES = 256 * 1024**2
PROCESSES, TASKS = 200, 512
FILES = 20_000
WIDEST = 8
"""Trials side by side, at the most."""
OPEN_FILES = 16_384
CPU_SECONDS = 3600


class CellError(T3flowError):
    """No cell can be made now, though the host may give them."""


@dataclass(frozen=True)
class Isolation:
    """What this host gives: the words before a command that make its namespaces (empty: none), and what is missing, for people."""

    words: list[str] = field(default_factory=list)
    missing: str = ""

    @property
    def is_whole(self) -> bool:
        """Whether cells can be had."""
        return bool(self.words)


def isolation(host: Host) -> Isolation:
    """The best that this host gives, found by trying. Raises CellError where that takes too long: a busy host is no reason to do without.

    With limits of a control group where systemd runs, else without; an unprivileged user namespace where this process is not root; else nothing.
    """
    missing = ""
    scope = _scope() if is_root() and Path("/run/systemd/system").is_dir() else []
    user = [] if is_root() else ["--user", "--map-current-user", "--keep-caps"]
    spaces = ["unshare", *user, "--net", "--mount", "--pid", "--ipc", "--uts", "--fork", "--kill-child", "--"]
    for before, lacks in ((scope, ""), ([], "no control group limits it")) if scope else (([], ""),):
        given = Isolation([*before, *spaces], lacks)
        try:
            finished = host.children.run(
                [*words(host, given, own_network=True), "true"],
                timeout_seconds=PROBE_SECONDS,
                environment=environment(),
            )
        except TookTooLong as error:
            raise CellError(f"this host is too slow now to make a cell: {error}") from error
        except ChildError as error:
            missing = str(error)
            continue
        if finished.code == 0:
            return given
        missing = finished.last_line
    return Isolation(
        [], f"no namespaces can be had here ({missing}): network, processes and files of the host are in its reach"
    )


def _scope() -> list[str]:
    """A transient unit of systemd around the cell, for what only a control group can limit."""
    cores = max(1, (os.cpu_count() or 1) // 2)
    limits = [
        f"MemoryMax={MEMORY_BYTES + TMP_BYTES}",
        "MemorySwapMax=0",
        f"TasksMax={TASKS}",
        f"CPUQuota={cores * 100}%",
        "CPUWeight=20",
    ]
    return [
        "systemd-run",
        "--scope",
        "--quiet",
        "--collect",
        *(word for limit in limits for word in ("-p", limit)),
        "--",
    ]


def words(
    host: Host,
    given: Isolation,
    *,
    own_network: bool,
    visible: Sequence[Path] = (),
    writable: Sequence[Path] = (),
    disk_bytes: int = 0,
    files: int = FILES,
    keeper: bool = False,
) -> list[str]:
    """The words before a command that put it into a cell as the gate's account. Without namespaces it only changes the account."""
    who = host.gate_account()
    if not given.is_whole:
        return command_as(who, [])
    wanted = {
        "visible": [str(path) for path in (*program_paths(PYTHON), PACKAGE, *visible)],
        "writable": [str(path) for path in writable],
        "uid": who.uid if who.is_other else None,
        "gid": who.gid if who.is_other else None,
        "own_network": own_network,
        "tmp_bytes": TMP_BYTES,
        "limits": {
            **({"FSIZE": disk_bytes} if disk_bytes else {}),
            "DATA": MEMORY_BYTES,
            "NPROC": TASKS
            * (1 if who.uid == os.geteuid() else WIDEST),  # without a user namespace it counts the whole account
            "NOFILE": OPEN_FILES,
            "CORE": 0,
            "CPU": CPU_SECONDS,
        },
        "keeper": keeper,
        "bounds": bounds(writable, disk_bytes, files),
    }
    spaces = [word for word in given.words if own_network or word != "--net"]
    return [*spaces, *python("t3flow.host.cells.world"), json.dumps(wanted)]


def bounds(folders: Sequence[Path], disk_bytes: int, files: int = FILES) -> dict[str, Any]:
    """What `host/cells/watch.py` watches over."""
    return {
        "memory_bytes": MEMORY_BYTES,
        "processes": PROCESSES,
        "disk_bytes": disk_bytes,
        "files": files,
        "folders": [str(folder) for folder in folders],
    }


def python(module: str) -> list[str]:
    """The command line of one of our programs inside cells: the standard library and t3flow's own package, nothing of site-packages."""
    return [str(PYTHON), "-S", "-s", "-P", "-m", module]


def environment(**more: str) -> dict[str, str]:
    """What such a program needs in its environment."""
    return {"PYTHONPATH": str(PACKAGE.parent), "PYTHONDONTWRITEBYTECODE": "1", **more}


def program_paths(program: Path) -> list[Path]:
    """What must be visible for a program to run: its installation (`PREFIX/bin/PROGRAM` with `PREFIX/lib` beside it), or its folder."""
    found = []
    for path in (program, Path(os.path.realpath(program))):
        prefix = path.parent.parent
        is_installation = path.parent.name == "bin" and (prefix / "lib").is_dir() and prefix != Path("/")
        found.append(prefix if is_installation else path.parent)
    return found


def find_program(name: str) -> Path:
    """Where a command is found. Raises ChildError."""
    found = shutil.which(name)
    if found is None:
        raise ChildError(f"cannot run {name}: it is not on PATH")
    return Path(found)
