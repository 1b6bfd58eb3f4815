"""Adoptions of a host that the shell tracker left during a rollout: completed, cancelled late, or undone. None stops a server.

The host is the same after each: a checked adoption is undone without disturbance.
"""

import shutil
import stat
from collections.abc import Generator
from pathlib import Path
from typing import Any

from old_host import in_the_middle, pids, rooms, timers
from rig import FIRST, Attempt, Rig
from scenes import NEXT
from sights import accepted_is, expect, unrecorded

from t3flow.adoption.adopt import ADOPTED
from t3flow.engine.journal import Run
from t3flow.host import freeze, slots
from t3flow.host.records import deferral_records, facts, version_schemas
from t3flow.host.slots import launcher, running_version
from t3flow.sandbox.host import Sandbox
from t3flow.service.consumer import open_journal
from t3flow.tasks import ACCEPTED

LED_TO = {"ada": NEXT, "grace": NEXT, "linus": FIRST}
LEVELS = {"ada": 32, "grace": 32, "linus": 30}
PAIRS = {"ada": True, "grace": False, "linus": True}
DEFERRED = {"grace": NEXT, "linus": NEXT}
LAST_BUT_ONE = "note_adoption"
Host = dict[str, Any]


def old_host(box: Sandbox) -> None:
    """Return the host as the shell tracker left it."""
    in_the_middle(box)


def play_adopt(rig: Rig, found: Attempt) -> Generator[tuple[str, dict[str, Any]], Run, None]:
    """Play `adopt`, and undo it afterwards."""
    before = made_ready(rig)
    ended = yield "adopt", {}
    is_adopted(rig, found, ended, before)
    given_back = rig.quietly("adopt", {"undo": True})
    is_old_again(rig, found, given_back, before, "done")


def play_cancelled(rig: Rig, found: Attempt) -> Generator[tuple[str, dict[str, Any]], Run, None]:
    """Play an adoption that is cancelled before its last step, the launcher, so that all of it is undone."""
    before = made_ready(rig)
    rig.box.environment["T3CRASH_CANCEL_AFTER"] = LAST_BUT_ONE
    ended = yield "adopt", {}
    is_old_again(rig, found, ended, before, "cancelled")


def play_undo(rig: Rig, found: Attempt) -> Generator[tuple[str, dict[str, Any]], Run, None]:
    """Play `adopt --undo`."""
    before = made_ready(rig)
    adopted = rig.quietly("adopt", {})
    assert adopted.outcome == "done", adopted.result
    ended = yield "adopt", {"undo": True}
    is_old_again(rig, found, ended, before, "done")


TAKEOVERS = {"adopt": play_adopt, "adopt_cancelled": play_cancelled, "adopt_undo": play_undo}


def made_ready(rig: Rig) -> Host:
    """Return the state of the host. Forget records of versions, so that each adoption tries them; a slot may exist."""
    journal = open_journal(rig.settings)
    version_schemas.forget_schemas(journal)
    before = {"rooms": rooms(rig.box), "pids": pids(rig.box), "levels": levels(rig)}
    if rig.staged and remembered(rig).exists():
        shutil.copytree(remembered(rig), slots.slot_path(rig.settings.paths.versions_dir, FIRST), symlinks=True)
    return before


def remembered(rig: Rig) -> Path:
    """Return the cache of the slot that npm creates in an adoption."""
    return rig.box.top / "remembered"


def levels(rig: Rig) -> dict[str, int]:
    """Return the schema level of each user's database."""
    return {user: rig.box.level(user) for user in sorted(rig.box.users)}


def is_adopted(rig: Rig, found: Attempt, ended: Run, before: Host) -> None:
    """Check: timers off, fitting versions assigned, markers turned into deferrals, old backups protected, the launcher installed."""
    box, paths = rig.box, rig.settings.paths
    expect(found, "the outcome", ended.outcome, "done")
    results = {user: entry["result"] for user, entry in ended.result.get("users", {}).items()}
    expect(found, "results", results, {user: "deferred" if user in DEFERRED else "untouched" for user in box.users})
    expect(found, "the servers", pids(box), before["pids"])
    expect(found, "the timers", timers(box), [False, False])
    expect(found, "links", slots.links(paths.versions_dir), LED_TO)
    expect(found, "slots", slots.installed(paths.versions_dir), [FIRST, NEXT])
    accepted_is(rig, found, NEXT)
    expect(found, "the launcher", launcher.is_launcher(paths.launcher), True)
    expect(
        found,
        "the former launcher",
        str(launcher.former_path(paths.launcher).readlink()),
        "../usr/lib/node_modules/t3/bin/t3.js",
    )
    deferred = deferral_records.deferrals(rig.journal)
    expect(found, "deferrals", {entry.user: entry.version for entry in deferred}, DEFERRED)
    expect(found, "their drains", sorted(entry.run for entry in deferred), sorted(under_way(rig)))
    for folder, wanted in (("deferred", []), ("deferred-before-t3flow", sorted(DEFERRED))):
        expect(
            found, f"markers in {folder}", sorted(path.name for path in (box.top / "state" / folder).iterdir()), wanted
        )
    for user in box.users:
        folder = paths.backup_dir / user
        modes = [stat.S_IMODE(path.stat().st_mode) for path in (folder, *folder.iterdir())]
        expect(found, f"modes of the backups of {user}", modes, [0o700, 0o600])
        expect(found, f"whether {user} pairs", box.pairs(user, tries=3 if PAIRS[user] else 1), PAIRS[user])
    found.wrong += unrecorded(rig)
    expect(found, "levels", levels(rig), LEVELS)
    if not remembered(rig).exists():
        shutil.copytree(slots.slot_path(paths.versions_dir, FIRST), remembered(rig), symlinks=True)
    noted = facts.read(rig.journal, running_version.TRACKER_SERVERS) or {}
    expect(
        found,
        "servers from the shell tracker's install",
        {user: pid for user, (pid, _) in noted.items()},
        before["pids"],
    )
    expect(
        found,
        "what is remembered",
        sorted((facts.read(rig.journal, ADOPTED) or {}).get("markers", {})),
        sorted(DEFERRED),
    )
    is_at_rest(rig, found, ended)


def is_old_again(rig: Rig, found: Attempt, ended: Run, before: Host, outcome: str) -> None:
    """Check that the host is as the shell tracker left it (contents, links, modes), without deferrals or records of the adoption."""
    expect(found, f"the outcome ({ended.result.get('reason')})", ended.outcome, outcome)
    expect(found, "the servers", pids(rig.box), before["pids"])
    now = rooms(rig.box)
    for path in sorted(now.keys() | before["rooms"].keys()):
        if now.get(path) != before["rooms"].get(path):
            found.wrong.append(f"{path} is {str(now.get(path))[:80]}, and was {str(before['rooms'].get(path))[:80]}")
    expect(found, "the timers", timers(rig.box), [True, True])
    expect(found, "levels", levels(rig), before["levels"])
    expect(found, "deferrals", deferral_records.deferrals(rig.journal), [])
    rig.wait(lambda: not under_way(rig), "no drain is left")
    for fact in (ADOPTED, running_version.TRACKER_SERVERS, *([ACCEPTED] if outcome == "done" else [])):
        expect(found, f"the fact {fact}", facts.read(rig.journal, fact), None)
    expect(found, "whether ada pairs", rig.box.pairs("ada"), True)
    is_at_rest(rig, found, ended)


def is_at_rest(rig: Rig, found: Attempt, ended: Run) -> None:
    """Check what holds after each attempt."""
    expect(found, "whether it is frozen", freeze.is_frozen(rig.settings), False)
    rig.nobody_is_held(found)
    rig.nothing_half_done(found, ended)


def under_way(rig: Rig) -> list[str]:
    """Return the runs that have not ended."""
    return [run.id for run in rig.journal.runs("status = 'running'")]
