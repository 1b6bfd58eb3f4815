"""Checks of the doctor that need root: the real PATH of the host, and a host booted with systemd."""

import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from mounting import mount
from world import World

from t3flow.host.host import Host, open_host
from t3flow.host.slots.launcher import install_launcher
from t3flow.service.consumer import open_journal
from t3flow.state.doctor import examine

SYSTEMCTL = """#!/bin/sh
between=
for word; do
  case $word in
    *ada*.service) printf "$between%s\\n" LoadState=$LOADED; printf '%s\\n' User=$ACCOUNT; between='\\n' ;;
    *.service) printf "$between%s\\n" LoadState=loaded; printf '%s\\n' User=mallory; between='\\n' ;;
  esac
done
"""
"""One block for each unit in the arguments, as systemctl prints them."""


@contextmanager
def mounted(place: str) -> Iterator[Path]:
    """Mount an empty folder over one of the host's, for this process alone."""
    mount("none", Path(place), "tmpfs", 0, "mode=755")
    try:
        yield Path(place)
    finally:
        subprocess.run(["umount", place], check=True)


def on_systemd(world: World) -> Host:
    """Return the same host with servers as units."""
    config = world.box.config
    config.write_text(config.read_text().replace('backend = "process"', 'backend = "systemd"'))
    return open_host(world.box.settings, open_journal(world.box.settings))


def test_another_t3_first_on_path(world: World) -> None:
    """As after an `npm install -g` with another prefix: a minting by name runs that one."""
    host = on_systemd(world)
    install_launcher(world.top / "bin/t3", world.top / "opt/t3", sandbox=False)
    with mounted("/usr/local/sbin") as folder:
        assert examine(host, ["launcher"]) == []
        (folder / "t3").write_text("#!/bin/sh\n")
        (folder / "t3").chmod(0o755)
        [found] = examine(host, ["launcher"])
        assert (f"{folder}/t3 comes before {world.top}/bin/t3 on PATH" in found.problem, found.remedy) == (
            True,
            f"remove {folder}/t3",
        )
        (folder / "t3").unlink()
        (folder / "t3").symlink_to(world.top / "bin/t3")
        assert examine(host, ["launcher"]) == [], "a link to the launcher is the launcher"


@pytest.mark.parametrize(
    ("loaded", "account", "words"),
    [
        ("loaded", "ada", ""),
        ("not-found", "", "t3-serve@ada.service is not-found"),
        ("loaded", "", "t3-serve@ada.service runs as root"),
        ("loaded", "mallory", "t3-serve@ada.service runs as mallory"),
    ],
)
def test_the_units_of_a_host_with_systemd(
    world: World, monkeypatch: pytest.MonkeyPatch, loaded: str, account: str, words: str
) -> None:
    """A program named systemctl answers like systemd."""
    tools = world.top / "tools"
    (tools / "systemctl").write_text(SYSTEMCTL.replace("$LOADED", loaded).replace("$ACCOUNT", account))
    (tools / "systemctl").chmod(0o755)
    monkeypatch.setenv("PATH", world.box.environment["PATH"])
    host = on_systemd(world)
    with mounted("/run") as folder:
        assert ["not booted with systemd" in each.problem for each in examine(host, ["systemd"])] == [True]
        (folder / "systemd/system").mkdir(parents=True)
        found = examine(host, ["systemd"])
    assert [words in each.problem and bool(each.remedy) for each in found] == ([True] if words else [])
