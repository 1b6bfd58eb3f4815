"""Checks of what t3flow depends on: npm, Node, systemd, namespaces, the dispatch, the clock."""

import os
import shutil
import signal
import time
from collections.abc import Iterator
from contextlib import suppress
from datetime import datetime
from pathlib import Path

from t3flow.host import management, slots
from t3flow.host.cells import cells
from t3flow.host.host import Host
from t3flow.host.npm import command, packages
from t3flow.host.pairing import dispatch_log, log_lines, probe
from t3flow.host.slots import creation
from t3flow.settings import schedule, timezones
from t3flow.state.doctor.finding import Finding, finding

ANSWER_SECONDS = 10.0
AHEAD_SECONDS = 5.0
ENDED_TRIES = 3
NODE_MAJOR = 24


def npm_runs(host: Host) -> Iterator[Finding]:
    """Check that npm runs."""
    command = host.settings.npm.command
    if shutil.which(command) is None:
        yield finding(f"{command} is not on PATH", "install npm, or set npm.command")
        return
    for _ in range(ENDED_TRIES):
        said = host.children.run(
            [command, "--version"], account=host.gate_account(), timeout_seconds=ANSWER_SECONDS * 3
        )
        if said.code != -signal.SIGKILL:
            break  # SIGKILL: a run that finished an install killed all processes of that account
    if said.code != 0 or not said.stdout.strip():
        yield finding(f"{command} --version failed: {said.last_line}", "reinstall npm with the Node on PATH")


def node_is_unchanged(host: Host) -> Iterator[Finding]:
    """Check that the Node on PATH is new enough, and each slot in use has the Node with which it passed the gate."""
    try:
        node = str(packages.node_path())
        said = host.children.run(
            [node, "--version"], account=host.gate_account(), timeout_seconds=ANSWER_SECONDS
        ).stdout.decode()
        major = said.strip().lstrip("v").partition(".")[0]
        if not major.isdigit() or int(major) < NODE_MAJOR:
            yield finding(
                f"the node on PATH says {said.strip() or 'nothing'}", f"install Node.js {NODE_MAJOR} or newer"
            )
    except command.PackageError as error:
        yield finding("there is no node on PATH", str(error).partition(": ")[2])
    versions_dir = host.settings.paths.versions_dir
    for version in sorted({*slots.links(versions_dir).values(), slots.default_version(versions_dir) or ""}):
        if not version or not slots.has_slot(versions_dir, version):
            continue
        manifest = slots.manifest(versions_dir, version)
        node = manifest.get("node", "path unknown")
        gated = slots.slot_path(versions_dir, version) / ".node"
        if not os.access(gated, os.X_OK):
            yield finding(
                f"the Node of {version} is missing, so t3 cannot start: {node}",
                "install it there again",
            )
        elif manifest.get("node_mark") not in (None, creation.node_mark(gated)):
            yield finding(
                f"the gate tried {version} with another Node than the one now at {node}",
                "install the former Node there again, or check this one: t3flow verify",
            )


def systemd_answers(host: Host) -> Iterator[Finding]:
    """With the systemd backend, check that systemd runs, and each user has a unit that runs as the user."""
    if host.settings.serve.backend != "systemd":
        return
    if not Path("/run/systemd/system").is_dir():
        yield finding("this host was not booted with systemd", "boot it with systemd, which runs the users' servers")
        return
    for user, server in host.services.states([entry.name for entry in host.user_map().users]).items():
        if server.facts is not None and (reason := management.identity_problem(server.facts, user)):
            problem, _, remedy = reason.rpartition(": ")
            yield finding(problem, remedy)


def cells_are_available(host: Host) -> Iterator[Finding]:
    """Check that the gate can isolate new versions in namespaces."""
    if missing := cells.isolation(host).missing:
        yield finding(
            f"new versions are not isolated while the gate tries them: {missing}",
            "allow namespaces: see sysctl user.max_user_namespaces, and try unshare --user true",
        )


def dispatch_answers(host: Host) -> Iterator[Finding]:
    """Check that the dispatch answers."""
    url = host.settings.dispatch.url
    try:
        probe.get(f"{url.rstrip('/')}/", {}, ANSWER_SECONDS)
    except probe.NotPaired as error:
        yield finding(str(error), "start the dispatch, or set dispatch.url")


def dispatch_log_is_readable(host: Host) -> Iterator[Finding]:
    """Check that the dispatch log, in which the bake watches pairings, is readable."""
    if host.settings.dispatch.log and host.settings.bake.minutes:
        try:
            dispatch_log.read(host, dispatch_log.end_of_log(host))
        except log_lines.LogProblem as problem:
            yield finding(str(problem), "set dispatch.log to the log of the dispatch")


def clock_is_right(host: Host) -> Iterator[Finding]:
    """Check that no event in the journal is in the future, and (systemd) the clock is synchronized."""
    newest = host.journal.query("select max(at) from events")[0][0] or 0.0
    if newest > time.time() + AHEAD_SECONDS:
        ahead = newest - time.time()
        yield finding(
            f"the journal is {ahead:.0f} s ahead of the clock: the clock was set back",
            "check the time: timedatectl",
        )
    if host.settings.serve.backend == "systemd" and shutil.which("timedatectl"):
        words = ["timedatectl", "show", "--property=NTPSynchronized", "--value"]
        if host.children.run(words, timeout_seconds=ANSWER_SECONDS).stdout.strip() == b"no":
            yield finding(
                "the clock is not synchronized",
                "timedatectl set-ntp true (t3flow tells by the clock when a user is idle)",
            )


def time_zone_is_known(host: Host) -> Iterator[Finding]:
    """Check that the time zone of the schedule exists, and /etc/timezone and /etc/localtime agree."""
    try:
        schedule.zone(host.settings)
    except schedule.ScheduleError as error:
        problem, _, remedy = str(error).rpartition(": ")
        yield finding(problem, remedy)
    with suppress(OSError, ValueError):
        named = Path("/etc/timezone").read_text().strip()
        rules, stated = timezones.zone_of(None), timezones.zone_of(named)
        moments = [time.time() + days * 86400 for days in range(0, 366, 5)]
        offsets = [[datetime.fromtimestamp(moment, each).utcoffset() for moment in moments] for each in (rules, stated)]
        if named and offsets[0] != offsets[1]:
            yield finding(
                f"/etc/timezone says {named}, but {timezones.LOCALTIME} has the rules of {rules}, and t3flow uses the latter",
                "timedatectl set-timezone ZONE, or set schedule.timezone",
            )
