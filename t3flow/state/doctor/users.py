"""Checks of users: accounts, servers, schemas, pairing."""

import shlex
import time
from collections.abc import Collection, Iterator

from t3flow import T3flowError
from t3flow.host import gate_account, parallel, slots
from t3flow.host.backups import compatibility
from t3flow.host.host import PORT_VARIABLE, Host
from t3flow.host.pairing import last_pairings, probe
from t3flow.host.processes import listing, ports, proc
from t3flow.host.records import version_schemas
from t3flow.host.records.version_schemas import Schemas
from t3flow.host.services.manager import ServerState
from t3flow.host.slots import running_version
from t3flow.state.doctor.finding import Finding, finding
from t3flow.state.doctor.surveys import managed, running, surveyed

NO_DATABASE = "there is no database"
READ_SECONDS, PAIR_SECONDS, RECENT_SECONDS = 1.0, 1.0, 3600.0
"""How long the doctor begins to read databases, and to pair users, about whom there is no doubt; for how long a pairing leaves no doubt."""


def accounts_exist(host: Host) -> Iterator[Finding]:
    """Check that the user map is valid, its users have accounts and ports of their own, and the gate's account exists and is not root."""
    for problem in host.user_map().problems:
        yield finding(problem, f"correct {host.settings.paths.user_map}")
    try:
        if host.gate_account().is_other and (shared := gate_account.sharing_problem(host)):
            problem, _, remedy = shared.rpartition(": ")
            yield finding(problem, remedy)
    except T3flowError as error:
        yield finding(f"gate.user: {error}", f"useradd --system {host.settings.gate.user}")
    ports: dict[int, str] = {}
    users = host.user_map().users
    surveyed(host)  # which notes the facts of all units
    for entry in users:
        try:
            port = host.port(entry.name)
        except T3flowError as error:
            problem, _, remedy = str(error).rpartition(": ")
            yield finding(problem, remedy)
            continue
        if port in ports:
            yield finding(
                f"{entry.name} and {ports[port]} have the same port {port}",
                f"assign one of them another port in {host.settings.paths.serve_env_dir}",
            )
        ports[port] = entry.name


def stale_port(host: Host, user: str, server: ServerState) -> str:
    """Return the port in the environment of a running server if its files name another port by now, else ""."""
    option = (server.facts.option("--port") if server.facts else None) or f"${PORT_VARIABLE}"
    if server.main_pid is None or not option.startswith("$"):
        return ""
    port = proc.variable(server.main_pid, option.strip("${}")) or ""
    return port if port != str(host.port(user)) else ""


def servers_run_assigned_versions(host: Host) -> Iterator[Finding]:
    """Check that each server was started by the launcher, runs the assigned version, is not suspended, and is alone on its port."""
    versions_dir = host.settings.paths.versions_dir
    if slots.default_version(versions_dir) is None:
        return
    is_busy = bool(host.journal.query("select 1 from locks"))
    for user, (server, reason) in surveyed(host).items():
        if reason:
            problem, _, remedy = reason.rpartition(": ")
            yield finding(f"{user} is not managed: {problem}", remedy)
            continue
        if port := stale_port(host, user, server):
            yield finding(
                f"the server of {user} listens on port {port}, but its port is {host.port(user)} now, so {user} cannot pair",
                f"systemctl restart {shlex.quote(server.unit)} when {user} is idle",
            )
            continue
        if taken := ports.port_blocker(host.port(user), pids := _pids(host, user, server)):
            yield finding(
                probe.port_taken_message(host, user, taken),
                f"then see t3flow runs, or start it: systemctl start {shlex.quote(server.unit)}",
            )
            continue
        if server.main_pid is None:
            if "failed" in server.detail:
                yield finding(
                    f"{server.unit} has failed",
                    f"systemctl status {shlex.quote(server.unit)}; systemctl restart {shlex.quote(server.unit)}",
                )
            continue
        runs, assigned = probe.running_version_of(host, user, server.main_pid), slots.effective(versions_dir, user)
        if is_busy:
            continue
        if proc.is_suspended(server.main_pid):
            yield finding(
                f"the server of {user} is suspended (SIGSTOP)",
                f"kill -CONT {server.main_pid}; systemctl restart t3flow",
            )
        if running_version.is_from_shell_tracker(host.journal, versions_dir, user, server.main_pid):
            yield finding(
                f"the server of {user} still runs {runs} from the shell tracker's install",
                f"the next bump or drain restarts it; or: systemctl restart {shlex.quote(server.unit)} when {user} is idle",
            )
        elif runs is None:
            yield finding(
                f"the server of {user} was not started by the launcher",
                f"systemctl restart {shlex.quote(server.unit)} when {user} is idle",
            )
        elif runs != assigned:
            yield finding(
                f"the server of {user} runs {runs}, but {assigned} is assigned",
                f"systemctl restart {shlex.quote(server.unit)} when {user} is idle",
            )
        if problem := probe.port_problem(host, user, server, pids):
            yield finding(f"{user}: {problem}", "list the listeners: ss -ltnp")


def nothing_runs_as_root(host: Host) -> Iterator[Finding]:
    """Check that no process of root runs a program of a slot."""
    prefix = f"{slots.slots_dir(host.settings.paths.versions_dir).resolve()}/"
    for pid in listing.matching_pids(lambda words: any(word.startswith(prefix) for word in words[:2])):
        if proc.uid_of(pid) == 0:
            yield finding(f"process {pid} runs a version of t3 as root", f"find what started it: ps -fp {pid}")


def _pids(host: Host, user: str, server: ServerState) -> Collection[int]:
    """Return the processes of a unit: those of the survey if they own the port, or as the manager lists them now."""
    if server.pids is not None and ports.is_owned_by(host.port(user), server.pids):
        return server.pids
    return host.services.pids_of(user, server)


def versions_know_their_databases(host: Host) -> Iterator[Finding]:
    """Check that the version of each user knows all migrations in the databases of the user, if its migrations are on record.

    On a host of many users, those are read as far as READ_SECONDS allow whose server has shown that it works with them: they paired since it started.
    """
    versions_dir = host.settings.paths.versions_dir

    def read(user: str) -> Schemas | str | None:
        try:
            return compatibility.read_schemas(host, user)
        except T3flowError as error:
            return None if str(error) == NO_DATABASE else str(error)

    seen, known_pairings = last_pairings.last_seen(host.journal), last_pairings.pairings(host.journal)
    found = surveyed(host)

    def has_worked(user: str) -> bool:
        last, started = known_pairings.get(user), found[user].server.started_wall
        return last is not None and not last["reason"] and started is not None and seen.get(user, 0.0) > started

    users = managed(host)
    unknown = [user for user in users if not has_worked(user)]
    schemas = dict(zip(unknown, parallel.for_each(read, unknown), strict=True))
    schemas |= parallel.for_each_within(READ_SECONDS, read, (user for user in users if user not in schemas))
    for user, schema in schemas.items():
        version = slots.effective(versions_dir, user) or ""
        known = version_schemas.schema_of_version(host.journal, version)
        if isinstance(schema, str):
            yield finding(
                f"the database of {user} cannot be read: {schema}",
                f"t3flow backups {shlex.quote(user)}; t3flow restore {shlex.quote(user)} BACKUP",
            )
        elif schema is not None and known is not None and (unfit := compatibility.unknown_migration(known, schema)):
            yield finding(
                f"{version} does not fit the databases of {user}: {unfit}",
                f"t3flow backups {shlex.quote(user)}; t3flow restore {shlex.quote(user)} BACKUP",
            )


def users_can_pair(host: Host) -> Iterator[Finding]:
    """Check that each user with a running server can pair through the dispatch.

    A pairing costs a minting, so that of many users those who paired within an hour are paired as far as PAIR_SECONDS allow, those who waited
    longest first; `verify` pairs all.
    """

    def failure(user: str) -> str:
        try:
            probe.probe(host, user)
            return ""
        except T3flowError as error:
            return str(error)

    seen, known = last_pairings.last_seen(host.journal), last_pairings.pairings(host.journal)
    recent = time.time() - RECENT_SECONDS
    users = sorted(running(host), key=lambda user: seen.get(user, 0.0))
    doubtful = [user for user in users if seen.get(user, 0.0) < recent or user not in known or known[user]["reason"]]
    reasons = dict(zip(doubtful, parallel.for_each(failure, doubtful, parallel.pairings_at_once()), strict=True))
    others = [user for user in users if user not in reasons]
    reasons |= parallel.for_each_within(PAIR_SECONDS, failure, others, parallel.pairings_at_once())
    last_pairings.note_pairings(host.journal, reasons)
    for user, reason in reasons.items():
        if reason:
            yield finding(
                f"{user} cannot pair: {reason}",
                f"t3flow verify {shlex.quote(user)}; t3flow enqueue rollback --user {shlex.quote(user)}",
            )
