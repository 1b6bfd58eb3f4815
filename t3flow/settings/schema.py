"""Every setting: section, key, kind of value, meaning, default. The only list of them in the code."""

from collections.abc import Callable, Mapping
from functools import cache
from pathlib import Path
from types import MappingProxyType, UnionType
from typing import Annotated, Any, Literal, NamedTuple, get_args, get_origin

from t3flow.settings import checks, values
from t3flow.settings.values import Expected


class Track(NamedTuple):
    """The package and version to follow."""

    package: Annotated[values.PackageName, "npm package"] = "t3"
    tag: Annotated[values.Tag, "dist-tag to follow"] = "nightly"
    pin: Annotated[values.Pin, "exact version to stay on instead of following the tag"] = ""
    min_age_hours: Annotated[values.Hours, "minimum age of a release before it is installed"] = 0


class Paths(NamedTuple):
    """Files and folders."""

    state_dir: Annotated[values.AbsolutePath, "journal, queue file, secret"] = Path("/var/lib/t3flow")
    freeze_file: Annotated[values.AbsolutePath, "while this file exists, nothing is updated"] = Path(
        "/etc/t3-autoupdate.freeze"
    )
    last_good_file: Annotated[values.AbsolutePath, "records the last accepted version"] = Path(
        "/var/lib/t3-autoupdate/last-good"
    )
    backup_dir: Annotated[values.AbsolutePath, "database snapshots, one folder per user"] = Path(
        "/var/backups/t3-state"
    )
    versions_dir: Annotated[
        values.AbsolutePath, "installed versions, one link per user, and the link of the default"
    ] = Path("/opt/t3")
    launcher: Annotated[values.AbsolutePath, "the t3 command that units and people run"] = Path("/usr/bin/t3")
    scratch_dir: Annotated[values.AbsolutePath, "where candidates are staged and tried; needs a few GB"] = Path(
        "/var/tmp"
    )
    user_map: Annotated[values.AbsolutePath, "which person works as which user: lines authentik_name=os_user"] = Path(
        "/etc/ttyd-user-map"
    )
    serve_env_dir: Annotated[values.AbsolutePath, "one file per user, USER.env with T3_PORT=…"] = Path("/etc/t3-serve")


class Serve(NamedTuple):
    """The users' servers."""

    backend: Annotated[
        Literal["systemd", "process"],
        "what starts and stops servers; process is the sandbox's own supervisor",
    ] = "systemd"
    unit: Annotated[values.UnitName, "service unit of a user's server"] = "t3-serve@{user}.service"
    base_dir: Annotated[values.BaseDir, "folder with all state of a user's server"] = "{home}/.t3"
    agent_processes: Annotated[values.ProgramNames, "programs below a server that count as running agents"] = [
        "claude",
        "codex",
        "opencode",
        "cursor-agent",
        "grok",
        "kiro-cli",
        "antigravity",
        "pi",
    ]


class Dispatch(NamedTuple):
    """How browsers are paired, and how pairing is verified."""

    url: Annotated[values.DispatchUrl, "address of the dispatch, as the reverse proxy reaches it"] = (
        "http://127.0.0.1:3780"
    )
    user_header: Annotated[values.HeaderName, "request header that names the person"] = "X-authentik-username"
    cookie: Annotated[
        values.CookieName, "session cookie of a paired browser; empty: the name that each user's own server gives"
    ] = ""
    pair_endpoints: Annotated[
        values.Endpoints, "endpoints that exchange a pairing credential, tried in order until one does not answer 404"
    ] = ["/api/auth/browser-session", "/api/auth/bootstrap"]
    verify_timeout_s: Annotated[values.Timeout, "time limit until a user can pair"] = 30
    log: Annotated[values.LogSource, "the dispatch's log of pairings, watched after a bump"] = (
        "journal:t3-dispatch.service"
    )


class Gate(NamedTuple):
    """How a candidate is tried before any user gets it."""

    seeds: Annotated[values.Seeds, "users whose database copies a candidate must migrate"] = "all"
    port: Annotated[values.Port, "port of the candidate's server during a trial"] = 3799
    start_timeout_s: Annotated[values.Timeout, "time limit until a candidate's server answers"] = 60
    limit_minutes: Annotated[
        values.TimeoutMinutes,
        "time limit of the gate; users whose databases are not tried by then are deferred, and each drain tries the version first",
    ] = 60
    user: Annotated[
        values.AccountName,
        (
            "unprivileged account that installs and tries candidates, for t3flow alone: "
            "its processes are killed before a version is copied into its slot"
        ),
    ] = "t3flow"


class Canary(NamedTuple):
    """The order in which users are restarted."""

    order: Annotated[Literal["smallest_first", "map_order"], "by database size, or in the order of the user map"] = (
        "smallest_first"
    )
    soak_minutes: Annotated[
        values.Minutes,
        "after the first restarted user, how long real pairings are watched before the next restart; 0 = no wait",
    ] = 0


class Deferral(NamedTuple):
    """When deferred users are checked again."""

    quiet_seconds: Annotated[values.Seconds, "a user without activity for this long is idle"] = 900
    window: Annotated[values.Window, "when deferred users may be restarted"] = "01:00-05:40"
    max_check_interval_s: Annotated[values.Timeout, "longest time between two checks in the window"] = 1200
    processes_days: Annotated[
        values.DaysOrNever,
        "after so many days, left-over processes no longer hold a user back (a live turn always does); 0 = never",
    ] = 0
    later_days: Annotated[values.Days, "how far ahead a user may postpone their restart with t3flow me later"] = 7


class Backup(NamedTuple):
    """Database snapshots."""

    keep: Annotated[values.Count, "number of accepted versions whose snapshots are kept"] = 6
    timeout_s: Annotated[values.Timeout, "time limit for the snapshot of one user"] = 900
    replaced_days: Annotated[
        values.LongDaysOrNever,
        "after so many days, a database that a rollback or restore replaced is dropped; 0 = only by t3flow backups drop",
    ] = 0
    gone_days: Annotated[
        values.Days, "how long link, records and files of an account that no longer exists are kept"
    ] = 14


class Schedule(NamedTuple):
    """When t3flow looks for a new version on its own."""

    bump: Annotated[values.Cron, "when to look for a new version"] = "0 4 * * *"
    jitter_s: Annotated[values.SecondsOfDay, "maximum random delay of a scheduled bump"] = 3600
    latest: Annotated[values.TimeOfDay, "a scheduled run restarts no further users after this time of day"] = "07:00"
    retry_s: Annotated[
        values.SecondsOfHour,
        (
            "delay before a run is retried when the registry does not answer or lacks a part of the release; "
            "later delays double, up to four times this; 0 = no retry"
        ),
    ] = 300
    timezone: Annotated[values.Timezone, "time zone of schedule.bump, schedule.latest and deferral.window"] = ""


class Bake(NamedTuple):
    """How real pairings are watched after a bump."""

    minutes: Annotated[values.Minutes, "how long real pairings are watched after a bump; 0 = off"] = 60
    max_failures: Annotated[values.Count, "tolerated failures in 10 minutes, of users on the new version"] = 3
    rollback: Annotated[bool, "true: freeze and roll back the affected users; false: only freeze"] = False


class Queue(NamedTuple):
    """Where tasks wait."""

    url: Annotated[values.QueueUrl, "URL of Huey's queue"] = "sqlite:///var/lib/t3flow/queue.db"


class Npm(NamedTuple):
    """How npm is run."""

    command: Annotated[values.Command, "npm command"] = "npm"
    timeout_s: Annotated[values.Timeout, "time limit for one npm command"] = 600
    retry_for_s: Annotated[values.Seconds, "how long npm commands are retried while the registry does not answer"] = 120
    verify_signatures: Annotated[
        Literal["auto", "require", "off"],
        "registry signatures: auto = verify them if the registry has keys, require = refuse a registry without keys",
    ] = "auto"


class Journal(NamedTuple):
    """The record of runs."""

    keep_days: Annotated[values.Days, "how long finished runs are kept, with all their steps"] = 90


class Notify(NamedTuple):
    """Messages to the owner."""

    ping_url: Annotated[
        values.MessageUrl,
        "pinged hourly and at start and end of each scheduled bump, with /start and /fail as healthchecks.io does; empty: off",
    ] = ""
    webhook_url: Annotated[values.MessageUrl, "receives each message as one JSON document by POST; empty: off"] = ""
    urls: Annotated[values.AppriseUrls, "further channels, as URLs of Apprise; they need the extra t3flow[notify]"] = []
    on: Annotated[values.Occasions, "what is worth a message"] = [
        "failed",
        "rolled_back",
        "frozen",
        "recovered",
        "updated",
    ]


class Metrics(NamedTuple):
    """Metrics for Prometheus."""

    textfile: Annotated[
        values.PathOrNone, "file ending in .prom, written each minute for the node exporter's textfile collector"
    ] = ""
    listen: Annotated[values.Listen, "where the consumer serves metrics over HTTP"] = ""


class Web(NamedTuple):
    """The status page."""

    listen: Annotated[values.Listen, "where the page is served; user names are trusted on a Unix socket alone"] = (
        "unix:///run/t3flow/web.sock"
    )
    admins: Annotated[values.Identities, "people who may act on the page, as the reverse proxy names them"] = []


class Verify(NamedTuple):
    """How pairing is verified outside of bumps."""

    every_minutes: Annotated[values.Minutes, "how often each user's pairing is verified; 0 = off"] = 60


class Fleet(NamedTuple):
    """Several hosts that take a version one after the other."""

    url: Annotated[
        values.FleetUrl, "Redis of the fleet, or a server that speaks FleetLock's protocol (http, https); empty: off"
    ] = ""
    group: Annotated[values.FleetName, "hosts of one group wait for each other"] = "default"
    host: Annotated[values.FleetNameOrNone, "name of this host in the fleet; empty: the machine's host name"] = ""
    slots: Annotated[values.Slots, "how many hosts of the group may restart users at a time; the same on all hosts"] = 1
    wave: Annotated[
        values.Wave, "a host waits until all hosts of lower waves have accepted a version and finished their bake"
    ] = 0
    alone_after_hours: Annotated[
        values.Hours, "after the fleet has not answered for so long, this host goes on without it; 0 = never"
    ] = 0
    silent_hours: Annotated[
        values.SomeHours, "a record of another host that is older counts as stale, and its host as silent"
    ] = 26
    key_file: Annotated[values.AbsolutePath, "this host's private key, which signs its records"] = Path(
        "/etc/t3flow/fleet.key"
    )
    peers: Annotated[values.AbsolutePath, "folder with the public key of each host of the group: HOST.pub"] = Path(
        "/etc/t3flow/fleet.d"
    )


class Log(NamedTuple):
    """The log on stderr."""

    level: Annotated[Literal["DEBUG", "INFO", "WARNING", "ERROR", "CRITICAL"], "lowest level that is logged"] = "INFO"
    json: Annotated[bool, "one JSON document per line, for a log collector"] = False


class Settings(NamedTuple):
    """All settings, as `settings.paths.versions_dir`. Immutable."""

    track: Track = Track()
    paths: Paths = Paths()
    serve: Serve = Serve()
    dispatch: Dispatch = Dispatch()
    gate: Gate = Gate()
    canary: Canary = Canary()
    deferral: Deferral = Deferral()
    backup: Backup = Backup()
    schedule: Schedule = Schedule()
    bake: Bake = Bake()
    queue: Queue = Queue()
    npm: Npm = Npm()
    journal: Journal = Journal()
    notify: Notify = Notify()
    metrics: Metrics = Metrics()
    web: Web = Web()
    verify: Verify = Verify()
    fleet: Fleet = Fleet()
    log: Log = Log()

    sources: Mapping[str, str] = MappingProxyType({})
    """Where the value of each `section.key` comes from: `default`, `file PATH` or `environment NAME`."""


class Declared(NamedTuple):
    """One setting: its meaning, what it expects, in TOML types and in words that end "expected …", the check of a value, the default."""

    meaning: str
    types: tuple[type, ...]
    expected: str
    check: Callable[[Any], Any]
    default: Any

    def read(self, value: object) -> Any:
        """Return the value in force for a value of TOML. Raise ValueError with what is wrong with it."""
        if type(value) not in self.types:
            raise ValueError(f"is {checks.type_of(value)}")
        return self.check(value)


def sections() -> dict[str, type[Any]]:
    """Return each section's name and class, in the order of the file."""
    return {name: kind for name, kind in Settings.__annotations__.items() if name != "sources"}


@cache
def declared() -> Mapping[str, Declared]:
    """Return each `section.key` and its declaration, in the order of the file."""
    return {
        f"{section}.{name}": _declared(hint, kind._field_defaults[name])
        for section, kind in sections().items()
        for name, hint in kind.__annotations__.items()
    }


def _declared(hint: Any, default: Any) -> Declared:
    kind, parts = hint.__origin__, hint.__metadata__
    [meaning] = (part for part in parts if isinstance(part, str))
    expected = next((part for part in parts if isinstance(part, Expected)), None)
    if kind is bool:
        expected = Expected("true or false", bool)
    elif expected is None:
        words = get_args(kind)
        expected = Expected(f"{', '.join(words[:-1])} or {words[-1]}", checks.one_of(words))
    return Declared(meaning, _toml_types(kind), *expected, default)


def _toml_types(kind: Any) -> tuple[type, ...]:
    """Return the types of TOML values that make a value of a field's type."""
    if isinstance(kind, UnionType):
        return tuple(toml for part in get_args(kind) for toml in _toml_types(part))
    if kind is float:
        return (int, float)
    return (str,) if kind is Path or get_origin(kind) is Literal else (get_origin(kind) or kind,)
