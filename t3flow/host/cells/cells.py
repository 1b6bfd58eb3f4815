"""Cells: namespaces that isolate code from the registry. `build.py` sets a cell up from the inside.

A cell has its own network (except for install scripts, which may download what they compile against), processes, mounts and account. It sees
the system's programs and the paths it is given, and no home, backup, journal, queue or secret. It ends with the process that created it.
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
MAX_PARALLEL = 8
"""Limit for trials in parallel."""
OPEN_FILES = 16_384
CPU_SECONDS = 3600


class CellError(T3flowError):
    """A cell cannot be created now, although the host may support cells."""


@dataclass(frozen=True)
class Isolation:
    """The isolation that this host supports: the command prefix that creates namespaces (empty: none), and what is missing, for people."""

    prefix: list[str] = field(default_factory=list)
    missing: str = ""

    @property
    def is_available(self) -> bool:
        """Whether this host supports cells."""
        return bool(self.prefix)


def isolation(host: Host) -> Isolation:
    """Return the best isolation that this host supports, found by trying. Raises CellError on a timeout: a busy host must not lose its isolation.

    As root: namespaces, in a control group with limits where systemd runs. Otherwise: namespaces within an unprivileged user namespace.
    """
    missing = ""
    scope = _scope() if is_root() and Path("/run/systemd/system").is_dir() else []
    user = [] if is_root() else ["--user", "--map-current-user", "--keep-caps"]
    namespaces = ["unshare", *user, "--net", "--mount", "--pid", "--ipc", "--uts", "--fork", "--kill-child", "--"]
    for prefix, lacks in ((scope, ""), ([], "no control group limits it")) if scope else (([], ""),):
        candidate = Isolation([*prefix, *namespaces], lacks)
        try:
            finished = host.children.run(
                [*cell_command(host, candidate, own_network=True), "true"],
                timeout_seconds=PROBE_SECONDS,
                environment=environment(),
            )
        except TookTooLong as error:
            raise CellError(f"this host is too slow now to create a cell: {error}") from error
        except ChildError as error:
            missing = str(error)
            continue
        if finished.code == 0:
            return candidate
        missing = finished.last_line
    return Isolation(
        [],
        f"this host supports no namespaces ({missing}): the host's network, processes and files are within its reach",
    )


def _scope() -> list[str]:
    """Return the prefix that runs a cell in a transient systemd scope, for limits that only a control group can enforce."""
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


def cell_command(
    host: Host,
    isolation: Isolation,
    *,
    own_network: bool,
    visible: Sequence[Path] = (),
    writable: Sequence[Path] = (),
    disk_bytes: int = 0,
    files: int = FILES,
    init: bool = False,
    module: str = "",
) -> list[str]:
    """Return the prefix that runs a command in a cell as the gate's account. Without namespaces, it only changes the account.

    `init`: a process of t3flow stays in the cell, reaps orphans, and ends the cell when it exceeds its bounds. `module`: the cell runs this program
    of t3flow; the prefix is then the whole command.
    """
    who = host.gate_account()
    if not isolation.is_available:
        return command_as(who, python_command(module) if module else [])
    specification = {
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
            * (
                1 if who.uid == os.geteuid() else MAX_PARALLEL
            ),  # without a user namespace, the limit counts the whole account
            "NOFILE": OPEN_FILES,
            "CORE": 0,
            "CPU": CPU_SECONDS,
        },
        "init": init,
        "module": module,
        "bounds": bounds(writable, disk_bytes, files),
    }
    prefix = [word for word in isolation.prefix if own_network or word != "--net"]
    return [*prefix, *python_command("t3flow.host.cells.build"), json.dumps(specification)]


def bounds(folders: Sequence[Path], disk_bytes: int, files: int = FILES) -> dict[str, Any]:
    """Return the bounds that `bounds.py` enforces."""
    return {
        "memory_bytes": MEMORY_BYTES,
        "processes": PROCESSES,
        "disk_bytes": disk_bytes,
        "files": files,
        "folders": [str(folder) for folder in folders],
    }


def python_command(module: str) -> list[str]:
    """Return the command line of a t3flow program inside cells: standard library and t3flow alone, without site-packages."""
    return [str(PYTHON), "-S", "-s", "-P", "-m", module]


def environment(**more: str) -> dict[str, str]:
    """Return the environment of such a program."""
    return {"PYTHONPATH": str(PACKAGE.parent), "PYTHONDONTWRITEBYTECODE": "1", **more}


def program_paths(program: Path) -> list[Path]:
    """Return the paths that a program needs: its installation (`PREFIX/bin/PROGRAM` with `PREFIX/lib` beside it), or its folder."""
    found = []
    for path in (program, Path(os.path.realpath(program))):
        prefix = path.parent.parent
        is_installation = path.parent.name == "bin" and (prefix / "lib").is_dir() and prefix != Path("/")
        found.append(prefix if is_installation else path.parent)
    return found


def find_program(name: str) -> Path:
    """Return the path of a command on PATH. Raises ChildError."""
    found = shutil.which(name)
    if found is None:
        raise ChildError(f"cannot run {name}: it is not on PATH")
    return Path(found)
