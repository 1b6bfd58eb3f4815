"""The processes of a unit, by its control group: the kernel's word, at a cost that does not depend on what else runs on the host."""

import os
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

MOUNTS = Path("/proc/self/mountinfo")
NAMED_HIERARCHY = "name=systemd"
DEEPEST = 8
"""Groups below a unit's own, as services with `Delegate=` make them, are followed so far."""


def folder_of(group: str, mounts: Path = MOUNTS) -> Path | None:
    """Return the folder of a control group that systemd names (`/system.slice/x.service`), or None where it is not to be seen.

    The group may have gone with its last process. Both hierarchies of systemd are looked at, wherever they are mounted: the unified one, and
    the named one of older and hybrid hosts.
    """
    found = []
    for root, mounted_at in _hierarchies(mounts):
        inside = group if root == "/" else group.removeprefix(root) if group.startswith(f"{root}/") else ""
        if inside.strip("/") and (folder := mounted_at / inside.strip("/")).is_dir():
            found.append(folder)
    return next((folder for folder in found if pids(folder)), found[0] if found else None)


def default_group(unit: str, slice_name: str) -> str:
    """Return the group that systemd gives a unit in a slice: what a stopped unit left behind is in there, though systemd names it no more.

    Given `x.service` and `a-b.slice`, return `/a.slice/a-b.slice/x.service`. "" for a unit without a slice, which is not loaded.
    """
    if not slice_name:
        return ""
    words = slice_name.removesuffix(".slice").split("-") if slice_name != "-.slice" else []
    slices = [f"{'-'.join(words[: count + 1])}.slice" for count in range(len(words))]
    return _manager_root() + "/".join(["", *slices, unit])


def pids(folder: Path | None) -> list[int]:
    """Return the processes of a control group and of those below it; none when it is gone."""
    return [pid for each in _groups(folder, DEEPEST) for pid in _listed(each)] if folder is not None else []


def _hierarchies(mounts: Path) -> Iterator[tuple[str, Path]]:
    """Each of systemd's hierarchies as (the group that its mount begins at, where it is mounted)."""
    with suppress(OSError):
        for line in mounts.read_text().splitlines():
            before, _, after = line.partition(" - ")
            fields, (kind, _, options) = before.split(), [*after.split(), "", "", ""][:3]
            if kind == "cgroup2" or (kind == "cgroup" and NAMED_HIERARCHY in options.split(",")):
                yield _unescaped(fields[3]), Path(_unescaped(fields[4]))


def _unescaped(text: str) -> str:
    r"""Return a path of mountinfo, in which a blank is `\040`, as it is."""
    for digits in ("040", "011", "012", "134"):
        text = text.replace(f"\\{digits}", chr(int(digits, 8)))
    return text


def _manager_root() -> str:
    """The group that systemd's own root lies at: "" but in a container without a namespace of control groups."""
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


def _listed(folder: Path) -> list[int]:
    """The processes of one group. One of another namespace of processes is listed as 0, and is none of ours."""
    with suppress(OSError):  # a threaded group has no list: the domain above it lists its processes
        return sorted({int(word) for word in (folder / "cgroup.procs").read_text().split()} - {0})
    return []
