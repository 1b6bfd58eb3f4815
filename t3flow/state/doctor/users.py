"""Checks of users: accounts, servers, schemas, pairing."""

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

from t3flow import T3flowError
from t3flow.host import gate_account, management, slots
from t3flow.host.backups import compatibility
from t3flow.host.host import PORT_VARIABLE, Host
from t3flow.host.pairing import last_pairings, probe
from t3flow.host.processes import listing, ports, proc
from t3flow.host.records import version_schemas
from t3flow.host.records.version_schemas import Schemas
from t3flow.host.services.manager import ServerState
from t3flow.host.slots import running_version
from t3flow.state.doctor.finding import Finding, finding

NO_DATABASE = "there is no database"


def surveyed(host: Host) -> dict[str, management.SurveyedServer]:
    """Return the server of each user in the user map, and why t3flow cannot manage it ("" if it can)."""
    return management.survey(host, [entry.name for entry in host.user_map().users])


def managed(host: Host) -> list[str]:
    """Return the managed users of the user map."""
    return [user for user, (_, reason) in surveyed(host).items() if not reason]


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
    host.note_facts(host.services.states([entry.name for entry in users]))
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
                f"systemctl restart {server.unit} when {user} is idle",
            )
            continue
        if taken := ports.port_blocker(host.port(user), host.services.pids_of(user, server)):
            yield finding(
                probe.port_taken_message(host, user, taken),
                f"then see t3flow runs, or start it: systemctl start {server.unit}",
            )
            continue
        if server.main_pid is None:
            if "failed" in server.detail:
                yield finding(
                    f"{server.unit} has failed", f"systemctl status {server.unit}; systemctl restart {server.unit}"
                )
            continue
        running, assigned = probe.running_version_of(host, user, server.main_pid), slots.effective(versions_dir, user)
        if is_busy:
            continue
        if proc.is_suspended(server.main_pid):
            yield finding(
                f"the server of {user} is suspended (SIGSTOP)",
                f"kill -CONT {server.main_pid}; systemctl restart t3flow",
            )
        if running_version.is_from_shell_tracker(host.journal, versions_dir, user, server.main_pid):
            yield finding(
                f"the server of {user} still runs {running} from the shell tracker's install",
                f"the next bump or drain restarts it; or: systemctl restart {server.unit} when {user} is idle",
            )
        elif running is None:
            yield finding(
                f"the server of {user} was not started by the launcher",
                f"systemctl restart {server.unit} when {user} is idle",
            )
        elif running != assigned:
            yield finding(
                f"the server of {user} runs {running}, but {assigned} is assigned",
                f"systemctl restart {server.unit} when {user} is idle",
            )
        if problem := probe.port_problem(host, user, server):
            yield finding(f"{user}: {problem}", "list the listeners: ss -ltnp")


def nothing_runs_as_root(host: Host) -> Iterator[Finding]:
    """Check that no process of root runs a program of a slot."""
    prefix = f"{slots.slots_dir(host.settings.paths.versions_dir).resolve()}/"
    for pid in listing.matching_pids(lambda words: any(word.startswith(prefix) for word in words[:2])):
        if proc.uid_of(pid) == 0:
            yield finding(f"process {pid} runs a version of t3 as root", f"find what started it: ps -fp {pid}")


def versions_know_their_databases(host: Host) -> Iterator[Finding]:
    """Check that the version of each user knows all migrations in the databases of the user, if its migrations are on record."""
    versions_dir = host.settings.paths.versions_dir

    def read(user: str) -> Schemas | str | None:
        try:
            return compatibility.read_schemas(host, user)
        except T3flowError as error:
            return None if str(error) == NO_DATABASE else str(error)

    users = managed(host)
    with ThreadPoolExecutor(4) as pool:
        schemas = dict(zip(users, pool.map(read, users), strict=True))
    for user, schema in schemas.items():
        version = slots.effective(versions_dir, user) or ""
        known = version_schemas.schema_of_version(host.journal, version)
        if isinstance(schema, str):
            yield finding(
                f"the database of {user} cannot be read: {schema}",
                f"t3flow backups {user}; t3flow restore {user} BACKUP",
            )
        elif schema is not None and known is not None and (unknown := compatibility.unknown_migration(known, schema)):
            yield finding(
                f"{version} does not fit the databases of {user}: {unknown}",
                f"t3flow backups {user}; t3flow restore {user} BACKUP",
            )


def users_can_pair(host: Host) -> Iterator[Finding]:
    """Check that each user with a running server can pair through the dispatch."""
    users = [user for user, (server, reason) in surveyed(host).items() if server.active and not reason]

    def failure(user: str) -> str:
        try:
            probe.probe(host, user)
            return ""
        except T3flowError as error:
            return str(error)

    with ThreadPoolExecutor(4) as pool:
        for user, reason in zip(users, pool.map(failure, users), strict=True):
            last_pairings.note_pairing(host.journal, user, reason)
            if reason:
                yield finding(
                    f"{user} cannot pair: {reason}", f"t3flow verify {user}; t3flow enqueue rollback --user {user}"
                )
