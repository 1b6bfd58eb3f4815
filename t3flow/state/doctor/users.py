"""The doctor on users: accounts, servers, schemas, pairing."""

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
    """The servers of the users of the map, and who of them cannot be managed."""
    return management.survey(host, [entry.name for entry in host.user_map().users])


def managed(host: Host) -> list[str]:
    """The users of the map whom t3flow can manage."""
    return [user for user, (_, why) in surveyed(host).items() if not why]


def accounts_are_there(host: Host) -> Iterator[Finding]:
    """The user map is sound, everybody in it has an account and a port, and the gate's account is there and not root."""
    for problem in host.user_map().problems:
        yield finding(problem, f"mend {host.settings.paths.user_map}")
    try:
        if host.gate_account().is_other and (shared := gate_account.sharing_problem(host)):
            what, _, mend = shared.rpartition(": ")
            yield finding(what, mend)
    except T3flowError as error:
        yield finding(f"gate.user: {error}", f"useradd --system {host.settings.gate.user}")
    ports: dict[int, str] = {}
    users = host.user_map().users
    host.note_facts(host.services.states([entry.name for entry in users]))
    for entry in users:
        try:
            port = host.port(entry.name)
        except T3flowError as error:
            what, _, mend = str(error).rpartition(": ")
            yield finding(what, mend)
            continue
        if port in ports:
            yield finding(
                f"{entry.name} and {ports[port]} have the same port {port}",
                "give one of them another in serve_env_dir",
            )
        ports[port] = entry.name


def port_of_another_start(host: Host, user: str, server: ServerState) -> str:
    """The port that a running server was given by its environment, if its files say another by now; else ""."""
    asked = (server.facts.option("--port") if server.facts else None) or f"${PORT_VARIABLE}"
    if server.main_pid is None or not asked.startswith("$"):
        return ""
    given = proc.variable(server.main_pid, asked.strip("${}")) or ""
    return given if given != str(host.port(user)) else ""


def servers_run_what_is_assigned(host: Host) -> Iterator[Finding]:
    """Each server is started through the launcher. By the slot on its command line it runs the version of its user's link, is not held still,
    and has its port to itself."""
    versions_dir = host.settings.paths.versions_dir
    if slots.default_version(versions_dir) is None:
        return
    is_busy = bool(host.journal.query("select 1 from locks"))
    for user, (server, why) in surveyed(host).items():
        if why:
            what, _, mend = why.rpartition(": ")
            yield finding(f"{user} is not managed: {what}", mend)
            continue
        if started_with := port_of_another_start(host, user, server):
            yield finding(
                f"the server of {user} was started with port {started_with}, and is to have {host.port(user)} from its next start on",
                f"systemctl restart {server.unit} when {user} is idle; until then they cannot pair",
            )
            continue
        if taken := ports.port_blocker(host.port(user), host.services.pids_of(user, server)):
            yield finding(
                probe.port_taken_message(host, user, taken), f"then see t3flow runs, or systemctl start {server.unit}"
            )
            continue
        if server.main_pid is None:
            if "failed" in server.detail:
                yield finding(
                    f"{server.unit} has failed", f"systemctl status {server.unit}; systemctl restart {server.unit}"
                )
            continue
        runs, led_to = probe.running_version_of(host, user, server.main_pid), slots.effective(versions_dir, user)
        if is_busy:
            continue
        if proc.is_suspended(server.main_pid):
            yield finding(
                f"the server of {user} is held still", f"kill -CONT {server.main_pid}; systemctl restart t3flow"
            )
        if running_version.is_from_shell_tracker(host.journal, versions_dir, user, server.main_pid):
            yield finding(
                f"the server of {user} still runs {runs} from the old place until its next restart",
                f"the next bump or drain restarts it; or systemctl restart {server.unit} when {user} is idle",
            )
        elif runs is None:
            yield finding(
                f"the server of {user} was not started by the launcher",
                f"systemctl restart {server.unit} when {user} is idle",
            )
        elif runs != led_to:
            yield finding(
                f"the server of {user} runs {runs}, but they are led to {led_to}",
                f"systemctl restart {server.unit} when {user} is idle",
            )
        if trouble := probe.port_problem(host, user, server):
            yield finding(f"{user}: {trouble}", "see who listens there: ss -ltnp")


def nothing_runs_as_root(host: Host) -> Iterator[Finding]:
    """No process of root's runs from a slot."""
    prefix = f"{slots.versions(host.settings.paths.versions_dir).resolve()}/"
    for pid in listing.matching_pids(lambda words: any(word.startswith(prefix) for word in words[:2])):
        if proc.uid_of(pid) == 0:
            yield finding(
                f"process {pid} runs a version of t3 as root",
                f"see who started it: ps -fp {pid}",
            )


def versions_know_their_databases(host: Host) -> Iterator[Finding]:
    """Nobody is led to a version that does not know the migrations of their databases, as far as that is known of the version."""
    versions_dir = host.settings.paths.versions_dir

    def read(user: str) -> Schemas | str | None:
        try:
            return compatibility.read_schemas(host, user)
        except T3flowError as error:
            return None if str(error) == NO_DATABASE else str(error)

    users = managed(host)
    with ThreadPoolExecutor(4) as pool:
        found = dict(zip(users, pool.map(read, users), strict=True))
    for user, theirs in found.items():
        version = slots.effective(versions_dir, user) or ""
        known = version_schemas.schema_of_version(host.journal, version)
        if isinstance(theirs, str):
            yield finding(
                f"the database of {user} cannot be read: {theirs}",
                f"t3flow backups {user}; t3flow restore {user} BACKUP",
            )
        elif theirs is not None and known is not None and (unknown := compatibility.unknown_migration(known, theirs)):
            yield finding(
                f"{version} does not fit the databases of {user}: {unknown}",
                f"t3flow backups {user}; t3flow restore {user} BACKUP",
            )


def everybody_pairs(host: Host) -> Iterator[Finding]:
    """Each user whose server runs pairs through the dispatch."""
    users = [user for user, (server, why) in surveyed(host).items() if server.active and not why]

    def trouble(user: str) -> str:
        try:
            probe.probe(host, user)
            return ""
        except T3flowError as error:
            return str(error)

    with ThreadPoolExecutor(4) as pool:
        for user, reason in zip(users, pool.map(trouble, users), strict=True):
            last_pairings.note_pairing(host.journal, user, reason)
            if reason:
                yield finding(
                    f"{user} cannot pair: {reason}", f"t3flow verify {user}; t3flow enqueue rollback --user {user}"
                )
