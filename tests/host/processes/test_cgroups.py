"""Control groups as mounted on the three kinds of hosts. Real ones: tests/root/test_control_groups.py."""

from pathlib import Path

import pytest

from t3flow.host.processes import cgroups

GROUP = r"/system.slice/system-t3\x2dserve.slice/t3-serve@ada.service"


def group(folder: Path, *pids: int) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "cgroup.procs").write_text("".join(f"{pid}\n" for pid in pids))
    return folder


def mounts(top: Path, *lines: str) -> Path:
    """Write a mountinfo; each line is `ROOT WHERE KIND OPTIONS`."""
    found = []
    for line in lines:
        root, where, kind, options = line.split()
        found.append(f"25 30 0:22 {root} {top}{where} rw,nosuid shared:9 - {kind} none rw,{options}\n")
    (top / "mountinfo").write_text("26 30 0:23 / /proc rw - proc proc rw\n" + "".join(found))
    return top / "mountinfo"


@pytest.mark.parametrize(
    ("lines", "where"),
    [
        (["/ /cg cgroup2 nsdelegate"], "/cg"),
        (["/ /cg/memory cgroup memory", "/ /cg/systemd cgroup xattr,name=systemd"], "/cg/systemd"),
        (["/ /cg/systemd cgroup name=systemd", "/ /cg/unified cgroup2 nsdelegate"], "/cg/unified"),
        (["/lxc/7 /cg cgroup2 nsdelegate"], "/cg"),
    ],
    ids=["unified", "legacy", "hybrid", "no-namespace"],
)
def test_the_group_of_a_unit_is_found(tmp_path: Path, lines: list[str], where: str) -> None:
    """On a hybrid host both hierarchies have the folder, and only one lists the processes."""
    named = f"/lxc/7{GROUP}" if "lxc" in lines[0] else GROUP
    for line in lines:
        group(Path(f"{tmp_path}{line.split()[1]}{GROUP}"))
    group(Path(f"{tmp_path}{where}{GROUP}"), 7, 8)
    group(Path(f"{tmp_path}{where}{GROUP}/agents/one"), 9)
    found = cgroups.folder_of(named, mounts(tmp_path, *lines))
    assert found == Path(f"{tmp_path}{where}{GROUP}")
    assert sorted(cgroups.pids(found)) == [7, 8, 9]


def test_a_group_that_is_gone_has_nobody(tmp_path: Path) -> None:
    assert cgroups.folder_of(GROUP, mounts(tmp_path, "/ /cg cgroup2 x")) is None
    assert cgroups.folder_of("/", mounts(tmp_path, "/ /cg cgroup2 x")) is None, "never the whole host"
    assert cgroups.pids(None) == []
    assert cgroups.pids(tmp_path / "gone") == []


def test_a_process_of_another_namespace_is_none(tmp_path: Path) -> None:
    assert cgroups.pids(group(tmp_path / "g", 0, 12)) == [12]


@pytest.mark.parametrize(
    ("name", "path"),
    [
        (r"system-t3\x2dserve.slice", GROUP),
        ("a-b-c.slice", "/a.slice/a-b.slice/a-b-c.slice/t3-serve@ada.service"),
        ("-.slice", "/t3-serve@ada.service"),
        ("", ""),
    ],
)
def test_where_a_stopped_unit_has_its_group(name: str, path: str) -> None:
    """systemd no longer reports the group, which still contains the leftover processes."""
    assert cgroups.default_group("t3-serve@ada.service", name) == (path and cgroups._manager_root() + path)
