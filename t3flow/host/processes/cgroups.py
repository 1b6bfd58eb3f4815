"""The processes of a unit, listed by its control group. The cost does not depend on other processes of the host."""

import os
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

MOUNTS = Path("/proc/self/mountinfo")
NAMED_HIERARCHY = "name=systemd"
MAX_DEPTH = 8
"""How deep groups below a unit's own are followed, as services with `Delegate=` create them."""


def folder_of(group: str, mounts: Path = MOUNTS) -> Path | None:
    """Return the folder of a control group as systemd names it (`/system.slice/x.service`), or None if it is not visible.

    A group disappears with its last process. Both hierarchies of systemd are searched wherever they are mounted: the unified one, and the named
    one of older and hybrid hosts.
    """
    found = []
    for root, mounted_at in _hierarchies(mounts):
        inside = group if root == "/" else group.removeprefix(root) if group.startswith(f"{root}/") else ""
        if inside.strip("/") and (folder := mounted_at / inside.strip("/")).is_dir():
            found.append(folder)
    return next((folder for folder in found if pids(folder)), found[0] if found else None)


def default_group(unit: str, slice_name: str) -> str:
    """Return the group of a unit in a slice: `x.service` in `a-b.slice` → `/a.slice/a-b.slice/x.service`.

    systemd no longer reports the group of a stopped unit, but leftover processes are still in it. "" without a slice: the unit is not loaded.
    """
    if not slice_name:
        return ""
    words = slice_name.removesuffix(".slice").split("-") if slice_name != "-.slice" else []
    slices = [f"{'-'.join(words[: count + 1])}.slice" for count in range(len(words))]
    return _manager_root() + "/".join(["", *slices, unit])


def pids(folder: Path | None) -> list[int]:
    """Return the processes of a control group and of the groups below it; none if it is gone."""
    return [pid for each in _groups(folder, MAX_DEPTH) for pid in _pids_of_group(each)] if folder is not None else []


def _hierarchies(mounts: Path) -> Iterator[tuple[str, Path]]:
    """Yield each hierarchy of systemd as (group at the root of the mount, mount point)."""
    with suppress(OSError):
        for line in mounts.read_text().splitlines():
            before, _, after = line.partition(" - ")
            fields, (kind, _, options) = before.split(), [*after.split(), "", "", ""][:3]
            if kind == "cgroup2" or (kind == "cgroup" and NAMED_HIERARCHY in options.split(",")):
                yield _unescaped(fields[3]), Path(_unescaped(fields[4]))


def _unescaped(text: str) -> str:
    r"""Return a path of mountinfo without its octal escapes (a blank is `\040`)."""
    for digits in ("040", "011", "012", "134"):
        text = text.replace(f"\\{digits}", chr(int(digits, 8)))
    return text


def _manager_root() -> str:
    """Return the group that systemd's hierarchy starts at: "" except in a container without a cgroup namespace."""
    with suppress(OSError):
        for line in Path("/proc/1/cgroup").read_text().splitlines():
            _, controllers, path = line.split(":", 2)
            if controllers in ("", NAMED_HIERARCHY) and path.endswith("/init.scope"):
                return path.removesuffix("/init.scope")
    return ""


def _groups(folder: Path, deep: int) -> Iterator[Path]:
    yield folder
    with suppress(OSError):
        for entry in os.scandir(folder) if deep else ():
            if entry.is_dir(follow_symlinks=False):
                yield from _groups(Path(entry.path), deep - 1)


def _pids_of_group(folder: Path) -> list[int]:
    """Return the processes of one group. A process of a foreign PID namespace is listed as 0, and skipped."""
    with suppress(OSError):  # a threaded group has no list; its parent domain lists its processes
        return sorted({int(word) for word in (folder / "cgroup.procs").read_text().split()} - {0})
    return []
