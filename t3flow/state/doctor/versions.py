"""Checks of slots, assignments, and the launcher."""

import os
import shlex
from collections.abc import Iterator

from t3flow.engine.files import safe_name
from t3flow.host import slots
from t3flow.host.host import Host
from t3flow.host.pairing import last_pairings
from t3flow.host.records import rejections
from t3flow.host.slots import preflight
from t3flow.state.doctor.finding import Finding, finding
from t3flow.t3 import processes


def launcher_is_intact(host: Host) -> Iterator[Finding]:
    """Check that the launcher is unchanged, and it is the t3 on PATH."""
    for problem, remedy in preflight.launcher_problems(host.settings):
        yield finding(problem, remedy)


def default_is_last_good(host: Host) -> Iterator[Finding]:
    """Check that there is a default version, and last-good names it."""
    paths = host.settings.paths
    default, last_good = slots.default_version(paths.versions_dir), slots.read_last_good(paths.last_good_file)
    if default is None:
        yield finding("no version is installed: this host is not adopted", "t3flow adopt --dry-run, then t3flow adopt")
    elif default != last_good and not host.journal.query("select 1 from locks"):
        yield finding(
            f"the default is {default}, but {paths.last_good_file} says {last_good or 'nothing'}",
            "see t3flow runs; the next bump sets both",
        )


def slots_are_whole(host: Host) -> Iterator[Finding]:
    """Check that each slot is complete, writable by root alone, and on a mount that is neither noexec nor read-only."""
    versions_dir = host.settings.paths.versions_dir
    for problem, remedy in preflight.mounts_problems(host.settings):
        yield finding(problem, remedy)
    for version in slots.installed(versions_dir):
        path = slots.slot_path(versions_dir, version)
        if not slots.has_slot(versions_dir, version) or not (path / processes.PROGRAM).is_file():
            remedy = f"create it again: t3flow enqueue bump --target {version}"
            if version != slots.default_version(versions_dir):
                remedy = f"if nothing needs it: rm -r {path}; to create it again, and move all users to it: t3flow enqueue bump --target {version}"
            yield finding(f"the slot {path} is incomplete", remedy)
            continue
        for place in (path, path / "node_modules", path / slots.MANIFEST, path / processes.PROGRAM):
            status = place.stat()
            if status.st_uid not in (0, os.geteuid()) or status.st_mode & 0o022:
                yield finding(f"{place} can be written by others", f"chown -R root {path}; chmod -R go-w {path}")


def links_lead_to_slots(host: Host) -> Iterator[Finding]:
    """Check that each user is assigned a complete slot of a version that was not rejected, and no restore was left unfinished."""
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
            yield finding(str(error).partition(":")[0], f"rm -r {link}; the next bump creates it")
            continue
        if version is None:
            yield finding(
                f"{user} has no assignment of their own and follows the default",
                "t3flow doctor --fix, or the next bump",
            )
        elif version == slots.RESTORING:
            if not is_busy:
                yield finding(
                    f"a restore of {user} did not finish, so the launcher starts no t3",
                    f"see t3flow runs; then t3flow restore, or t3flow enqueue rollback --user {shlex.quote(user)}",
                )
        elif (
            not slots.has_slot(versions_dir, version)
            or link.resolve().parent != slots.slots_dir(versions_dir).resolve()
        ):
            yield finding(
                f"{link} does not lead to a complete slot ({os.readlink(link)})",
                f"t3flow enqueue rollback --user {shlex.quote(user)}",
            )
        elif version in rejected and (pairing[user]["reason"] if user in pairing else "not verified"):
            yield finding(
                f"{user} is assigned {version}, which was rejected: {rejected[version]}",
                f"t3flow enqueue rollback --user {shlex.quote(user)}",
            )
