"""The doctor on slots, links and the launcher: who is led where."""

import os
from collections.abc import Iterator

from t3flow.engine.files import safe_name
from t3flow.host import slots
from t3flow.host.host import Host
from t3flow.host.pairing import last_pairings
from t3flow.host.records import rejections
from t3flow.host.slots import preflight
from t3flow.state.doctor.finding import Finding, finding
from t3flow.t3 import processes


def launcher_is_ours(host: Host) -> Iterator[Finding]:
    """What units and people run is the launcher, whole, and the t3 that is found on PATH is it."""
    for what, mend in preflight.launcher_problems(host.settings):
        yield finding(what, mend)


def default_is_last_good(host: Host) -> Iterator[Finding]:
    """There is a default, it was accepted, and last-good says the same."""
    paths = host.settings.paths
    default, last_good = slots.default_version(paths.versions_dir), slots.read_last_good(paths.last_good_file)
    if default is None:
        yield finding(
            "no version is installed yet: nobody is led anywhere", "t3flow adopt --dry-run, then t3flow adopt"
        )
    elif default != last_good and not host.journal.query("select 1 from locks"):
        yield finding(
            f"the default is {default}, {paths.last_good_file} says {last_good or 'nothing'}",
            "see t3flow runs; a bump sets both",
        )


def slots_are_whole(host: Host) -> Iterator[Finding]:
    """Each slot is complete, root's, written by nobody else, and on a mount that runs programs and takes files."""
    versions_dir = host.settings.paths.versions_dir
    for what, mend in preflight.mounts_problems(host.settings):
        yield finding(what, mend)
    for version in slots.installed(versions_dir):
        path = slots.slot_path(versions_dir, version)
        if not slots.has_slot(versions_dir, version) or not (path / processes.PROGRAM).is_file():
            yield finding(f"the slot {path} is not whole", f"t3flow enqueue bump --target {version} makes it anew")
            continue
        for place in (path, path / "node_modules", path / slots.MANIFEST, path / processes.PROGRAM):
            status = place.stat()
            if status.st_uid not in (0, os.geteuid()) or status.st_mode & 0o022:
                yield finding(f"{place} can be written by others", f"chown -R root {path}; chmod -R go-w {path}")


def links_lead_to_slots(host: Host) -> Iterator[Finding]:
    """Each user has a link of their own to a whole slot, not to a version that failed, and is not left held."""
    versions_dir = host.settings.paths.versions_dir
    rejected = rejections.rejected(host.journal)
    pairing = last_pairings.pairings(host.journal)
    is_busy = bool(host.journal.query("select 1 from locks"))
    if slots.default_version(versions_dir) is None:
        return
    for entry in host.user_map().users:
        user, link = entry.name, slots.user_link(versions_dir, safe_name(entry.name))
        try:
            version = slots.linked_version(link)
        except slots.SlotError as error:
            yield finding(str(error).partition(":")[0], f"rm -r {link}; the next bump makes it")
            continue
        if version is None:
            yield finding(
                f"{user} has no link: when the default moves, they move with it",
                "the next bump makes it, or t3flow adopt",
            )
        elif version == slots.RESTORING:
            if not is_busy:
                yield finding(
                    f"{user} is held, as in a restore that did not end: t3 starts nothing",
                    "t3flow runs; t3flow restore, or rollback",
                )
        elif (
            not slots.has_slot(versions_dir, version) or link.resolve().parent != slots.versions(versions_dir).resolve()
        ):
            yield finding(
                f"{link} leads to no whole slot ({os.readlink(link)})", f"t3flow enqueue rollback --user {user}"
            )
        elif version in rejected and (pairing[user]["reason"] if user in pairing else "not verified"):
            yield finding(
                f"{user} is led to {version}, which was rejected: {rejected[version]}",
                f"t3flow enqueue rollback --user {user}",
            )
