"""A host in the middle of a rollout of the shell tracker's, and all that it has of it, to compare with."""

import shutil
from pathlib import Path
from typing import Any

from scenes import FIRST, NEXT, is_busy

from t3flow.adoption.shell_tracker import TIMERS
from t3flow.sandbox import shell_tracker
from t3flow.sandbox.host import Sandbox

LEVEL30 = Path(__file__).parent.parent / "data" / "state-level30.sqlite"
ROOMS = ("usr", "bin", "etc", "opt", "backups", "state/deferred", "state/deferred-before-t3flow", "state/last-good")


def in_the_middle(box: Sandbox) -> dict[str, str]:
    """Start a host in the middle of a rollout, and return the turns of grace and linus.

    NEXT is installed over FIRST: ada was restarted on it; grace was deferred, and her browser has migrated her database under her server since;
    linus was deferred and has not paired.
    """
    shell_tracker.start(box, FIRST, dict.fromkeys(box.users, LEVEL30), {"schema_level": 30})
    for user in box.users:
        old = box.settings.paths.backup_dir / user / f"state-prebump-{NEXT}-20260609T041500Z.sqlite"
        old.parent.mkdir()
        shutil.copyfile(LEVEL30, old)
    turns = {user: is_busy(box, user) for user in ("grace", "linus")}
    box.publish(NEXT, {"schema_level": 32})
    shell_tracker.install(box, NEXT)
    shell_tracker.accept(box, NEXT)
    shell_tracker.restart(box, "ada")
    for user in turns:
        shell_tracker.mark(box, user, NEXT)
    assert not box.pairs("grace"), "the outage of the shell tracker"
    assert {user: box.level(user) for user in box.users} == {"ada": 32, "grace": 32, "linus": 30}
    return turns


def rooms(box: Sandbox) -> dict[str, Any]:
    """All that the host has of the tracker, with modes, contents and targets of links."""
    found: dict[str, Any] = {}
    for room in ROOMS:
        for path in [box.top / room, *sorted((box.top / room).rglob("*"))]:
            if path.is_symlink():
                found[str(path)] = path.readlink()
            elif path.is_file():
                found[str(path)] = path.read_bytes()
            elif room == "backups":
                found[str(path)] = path.stat().st_mode
    return found


def timers(box: Sandbox) -> list[bool]:
    """Whether each of the old timers is on."""
    return [(box.settings.paths.serve_env_dir / timer).exists() for timer in TIMERS]


def pids(box: Sandbox) -> dict[str, int]:
    """Return the main process of each user's server."""
    return {user: box.supervise("status", user)["main_pid"] for user in box.users}
