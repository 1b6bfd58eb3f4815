"""The doctor on what t3flow works with: npm, Node, systemd, namespaces, the dispatch, the clock."""

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
    """npm is there and says its version."""
    command = host.settings.npm.command
    if shutil.which(command) is None:
        yield finding(f"{command} is not on PATH", "install npm, or set npm.command")
        return
    for _ in range(ENDED_TRIES):
        said = host.children.run(
            [command, "--version"], account=host.gate_account(), timeout_seconds=ANSWER_SECONDS * 3
        )
        if said.code != -signal.SIGKILL:
            break  # else a run that has just installed something ended all that runs as that account
    if said.code != 0 or not said.stdout.strip():
        yield finding(f"{command} --version says: {said.last_line}", "install npm again, with the Node on PATH")


def node_is_the_gated_one(host: Host) -> Iterator[Finding]:
    """The Node on PATH is new enough, and that of each slot in use is still the one that it was gated with."""
    try:
        node = str(packages.node_path())
        said = host.children.run(
            [node, "--version"], account=host.gate_account(), timeout_seconds=ANSWER_SECONDS
        ).stdout.decode()
        major = said.strip().lstrip("v").partition(".")[0]
        if not major.isdigit() or int(major) < NODE_MAJOR:
            yield finding(f"node on PATH is {said.strip() or 'silent'}", f"install Node.js {NODE_MAJOR} or newer")
    except command.PackageError as error:
        yield finding("there is no node on PATH", str(error).partition(": ")[2])
    versions_dir = host.settings.paths.versions_dir
    for version in sorted({*slots.links(versions_dir).values(), slots.default_version(versions_dir) or ""}):
        if not version or not slots.has_slot(versions_dir, version):
            continue
        noted = slots.manifest(versions_dir, version)
        gated = slots.slot_path(versions_dir, version) / ".node"
        if not os.access(gated, os.X_OK):
            yield finding(
                f"the Node of {version} is gone: {noted.get('node', 'not noted')}",
                "install it there again; t3 cannot start",
            )
        elif noted.get("node_mark") not in (None, creation.node_mark(gated)):
            yield finding(
                f"the Node at {noted.get('node', 'not noted')} is not the one that {version} was gated with",
                f"put that one back, or see that all is well with this one: t3flow verify; {version} was not tried on it",
            )


def systemd_answers(host: Host) -> Iterator[Finding]:
    """systemd is there where it starts the servers, and each user has a unit that runs as them."""
    if host.settings.serve.backend != "systemd":
        return
    if not Path("/run/systemd/system").is_dir():
        yield finding("this host was not booted with systemd", "t3flow needs it for the users' servers")
        return
    for user, server in host.services.states([entry.name for entry in host.user_map().users]).items():
        if server.facts is not None and (trouble := management.identity_problem(server.facts, user)):
            what, _, mend = trouble.rpartition(": ")
            yield finding(what, mend)


def cells_can_be_had(host: Host) -> Iterator[Finding]:
    """Candidates can be tried in namespaces of their own."""
    if missing := cells.isolation(host).missing:
        yield finding(
            f"candidates are not isolated: {missing}", "allow namespaces: sysctl user.max_user_namespaces, unshare"
        )


def dispatch_answers(host: Host) -> Iterator[Finding]:
    """The dispatch answers at all."""
    url = host.settings.dispatch.url
    try:
        probe.get(f"{url.rstrip('/')}/", {}, ANSWER_SECONDS)
    except probe.NotPaired as error:
        yield finding(str(error), "start the dispatch, or set dispatch.url")


def dispatch_log_is_read(host: Host) -> Iterator[Finding]:
    """The log that pairings are watched in can be read."""
    if host.settings.dispatch.log and host.settings.bake.minutes:
        try:
            dispatch_log.read(host, dispatch_log.end_of_log(host))
        except log_lines.LogProblem as problem:
            yield finding(str(problem), "set dispatch.log to where the dispatch logs")


def clock_is_right(host: Host) -> Iterator[Finding]:
    """Nothing in the journal is of the future, and (systemd) the clock is kept by somebody."""
    newest = host.journal.query("select max(at) from events")[0][0] or 0.0
    if newest > time.time() + AHEAD_SECONDS:
        ahead = newest - time.time()
        yield finding(
            f"the journal is {ahead:.0f} s ahead of the clock, which was set back",
            "see that the time is right: timedatectl",
        )
    if host.settings.serve.backend == "systemd" and shutil.which("timedatectl"):
        words = ["timedatectl", "show", "--property=NTPSynchronized", "--value"]
        if host.children.run(words, timeout_seconds=ANSWER_SECONDS).stdout.strip() == b"no":
            yield finding("the clock is not synchronized", "timedatectl set-ntp true; idleness is told by the clock")


def schedule_has_a_clock(host: Host) -> Iterator[Finding]:
    """The time zone of the schedule is known, and the host's two notes of its own zone agree."""
    try:
        schedule.zone(host.settings)
    except schedule.ScheduleError as error:
        what, _, mend = str(error).rpartition(": ")
        yield finding(what, mend)
    with suppress(OSError, ValueError):
        named = Path("/etc/timezone").read_text().strip()
        rules, noted = timezones.zone_of(None), timezones.zone_of(named)
        moments = [time.time() + days * 86400 for days in range(0, 366, 5)]
        offsets = [[datetime.fromtimestamp(moment, each).utcoffset() for moment in moments] for each in (rules, noted)]
        if named and offsets[0] != offsets[1]:
            yield finding(
                f"/etc/timezone says {named}, and {timezones.LOCALTIME} has the rules of {rules}, which are the ones that count",
                "timedatectl set-timezone, or set schedule.timezone",
            )
