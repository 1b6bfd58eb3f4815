"""The doctor on what t3flow works with: npm, Node, systemd, namespaces, the dispatch, the clock, the queue."""

import os
import shutil
import signal
import stat
import time
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import urlsplit

from t3flow.doctor.finding import Finding, finding
from t3flow.engine.queue import open_queue, queue_key
from t3flow.host import cells, dispatch_log, manageable, npm, pairing, slots
from t3flow.host.host import Host

ANSWER_SECONDS = 10.0
AHEAD_SECONDS = 5.0
ENDED_TRIES = 3
NODE_MAJOR = 24
LOOPBACK = ("localhost", "127.0.0.1", "::1")


def npm_runs(host: Host) -> Iterator[Finding]:
    """npm is there and says its version."""
    command = host.settings.npm.command
    if shutil.which(command) is None:
        yield finding(f"{command} is not on PATH", "install npm, or set npm.command")
        return
    for _ in range(ENDED_TRIES):
        said = host.children.run([command, "--version"], who=host.gate_account(), timeout_seconds=ANSWER_SECONDS * 3)
        if said.code != -signal.SIGKILL:
            break  # else a run that has just installed something ended all that runs as that account
    if said.code != 0 or not said.stdout.strip():
        yield finding(f"{command} --version says: {said.last_line}", "install npm again, with the Node on PATH")


def node_is_the_gated_one(host: Host) -> Iterator[Finding]:
    """The Node on PATH is new enough, and that of each slot in use is still the one that it was gated with."""
    try:
        node = str(npm.node_path())
        said = host.children.run(
            [node, "--version"], who=host.gate_account(), timeout_seconds=ANSWER_SECONDS
        ).stdout.decode()
        major = said.strip().lstrip("v").partition(".")[0]
        if not major.isdigit() or int(major) < NODE_MAJOR:
            yield finding(f"node on PATH is {said.strip() or 'silent'}", f"install Node.js {NODE_MAJOR} or newer")
    except npm.PackageError as error:
        yield finding("there is no node on PATH", str(error).partition(": ")[2])
    versions_dir = host.settings.paths.versions_dir
    for version in sorted({*slots.links(versions_dir).values(), slots.default_version(versions_dir) or ""}):
        if not version or not slots.has_slot(versions_dir, version):
            continue
        noted = slots.manifest(versions_dir, version)
        gated = slots.slot_path(versions_dir, version) / ".node"
        if not os.access(gated, os.X_OK):
            yield finding(f"the Node of {version} is gone: {noted['node']}", "install it there again; t3 cannot start")
        elif noted.get("node_mark") not in (None, slots.node_mark(gated)):
            yield finding(
                f"the Node at {noted['node']} is not the one that {version} was gated with",
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
        if server.facts is not None and (trouble := manageable.identity_trouble(server.facts, user)):
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
        pairing.get(f"{url.rstrip('/')}/", {}, ANSWER_SECONDS)
    except pairing.NotPaired as error:
        yield finding(str(error), "start the dispatch, or set dispatch.url")


def dispatch_log_is_read(host: Host) -> Iterator[Finding]:
    """The log that pairings are watched in can be read."""
    if host.settings.dispatch.log and host.settings.bake.minutes:
        try:
            dispatch_log.read(host, dispatch_log.start(host))
        except dispatch_log.LogProblem as problem:
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


def queue_is_private(host: Host) -> Iterator[Finding]:
    """Nobody but root can write to the queue. Messages are signed, so that what others write is dropped; a flood is a nuisance all the same."""
    parts = urlsplit(host.settings.queue.url)
    if parts.scheme in ("redis", "rediss"):
        if not parts.password and "password=" not in parts.query:
            yield finding("the queue's Redis has no password in queue.url", "set requirepass, or use a unix socket")
        if parts.scheme == "redis" and parts.hostname not in LOOPBACK:
            yield finding(
                f"the queue is reached over the network, in clear ({parts.hostname})", "use a unix socket, or rediss://"
            )
    elif parts.scheme == "unix" and not parts.password:
        path = Path(parts.path)
        if path.exists() and stat.S_IMODE(path.stat().st_mode) & 0o007 and _is_open(path.parent):
            yield finding(f"everybody may write to the queue's socket {path}", "unixsocketperm 700, or a password")
    try:
        open_queue(host.settings.queue.url, queue_key(host.settings.paths.state_dir / "queue.key")).pending_count()
    except Exception as error:  # whatever the client of the queue raises
        yield finding(
            f"the queue does not answer: {type(error).__name__}",
            "start it, or set queue.url; nothing is lost meanwhile",
        )


def _is_open(folder: Path) -> bool:
    return bool(stat.S_IMODE(folder.stat().st_mode) & 0o001)
