"""An install as root: npm and what it brings run as the account of the gate, with the settings of root that lead to the registry and no other."""

import os
import shutil
from pathlib import Path

from origins import installed, of
from test_releases import HARMFUL, NATIVE, PART, VERSION, package
from world import World

TOKEN = "only-root-may-know-this"


def test_a_release_in_parts_is_installed_by_the_gates_account(world: World) -> None:
    """Whole, with root's token, as nobody else: scripts run without it, an optional package whose script fails is gone, nothing belongs to root."""
    box = world.box
    os.chmod(box.top / "scratch", 0o711)
    box.start_registry()
    for name, script in (("helper", "id -u > built; env > said"), ("maybe", "exit 3")):
        of(box).publish("1.0.0", package(box.top / "made", name, "1.0.0", scripts={"install": script}))
    inner = package(box.top / "made", "inner", "1.0.0", optionalDependencies={"maybe": "1.0.0"})
    of(box).publish("1.0.0", inner)
    box.publish(VERSION, NATIVE, manifest={"dependencies": {"helper": "1.0.0", "inner": "1.0.0"}})
    box.enable_signatures()
    of(box).require_token(TOKEN)
    npmrc = box.top / "home/.npmrc"
    lines = [
        f"//127.0.0.1:{box.registry_port}/:_authToken={TOKEN}",
        *(f"{key} = {value}" for key, value in HARMFUL.items()),
    ]
    npmrc.write_text("\n".join(lines))
    npmrc.chmod(0o600)
    umask = os.umask(0o022)
    try:
        found = installed(box, VERSION, keep=True)
        modules = box.top / "scratch/one/prefix/node_modules"
        assert isinstance(found, dict), found
        assert (found["signatures"], found["left_out"]) == ("verified", ["maybe@1.0.0"])
        assert (modules / PART / "t3").exists()
        assert (modules / "helper/built").read_text().strip() == str(world.uids["t3flow"])
        assert TOKEN not in (modules / "helper/said").read_text()
        assert not (modules / "maybe").exists()
        assert {path.lstat().st_uid for path in _all(modules)} == {world.uids["t3flow"]}
        of(box).set_faults(status=404, only="tarball", package=PART)
        assert "is not complete in the registry yet: E404" in str(installed(box, VERSION))
    finally:
        os.umask(umask)
        shutil.rmtree(box.top / "scratch/one", ignore_errors=True)


def _all(top: Path) -> list[Path]:
    return [top, *top.rglob("*")]
