"""Every setting: section, key, what it means, what it takes, default. The only list of them in the code.

A field is declared as type, meaning, and (but for words and truth values) what it takes, with the check that reads it.
"""

from collections.abc import Callable, Mapping
from functools import cache
from pathlib import Path
from types import MappingProxyType
from typing import Annotated, Any, Literal, NamedTuple, get_args

from t3flow.settings import values
from t3flow.settings.values import Takes, number, text_that, texts_that

YEAR_SECONDS = values.LONGEST_TIME_SECONDS

AbsolutePath = Annotated[Path, Takes("an absolute path", values.absolute_path)]
Delay = Annotated[float, Takes("seconds, 0 or more, at most a year", number(0, YEAR_SECONDS))]
Timeout = Annotated[float, Takes("seconds, above 0, at most a year", number(0.001, YEAR_SECONDS))]
Count = Annotated[int, Takes("a whole number from 1 to 1000000", number(1, 1_000_000, whole=True))]
HeaderToken = Annotated[str, Takes("letters, digits and -, as in an HTTP header", text_that(values.check_header_token))]
CookieName = Annotated[str, Takes('the name of a cookie, or ""', text_that(values.check_cookie_name))]


class Track(NamedTuple):
    """What to follow."""

    package: Annotated[str, "npm package", Takes("the name of an npm package", text_that(values.check_package))] = "t3"
    tag: Annotated[str, "dist-tag to follow", Takes("a dist-tag, such as nightly", text_that(values.check_tag))] = (
        "nightly"
    )
    pin: Annotated[
        str,
        "exact version to hold, instead of following the tag",
        Takes('an exact version, or "" for none', text_that(values.check_pin)),
    ] = ""
    min_age_hours: Annotated[
        float,
        "how old a release must be before it is taken",
        Takes("hours, 0 or more, at most a year", number(0, YEAR_SECONDS // 3600)),
    ] = 0


class Paths(NamedTuple):
    """Where things are."""

    state_dir: Annotated[AbsolutePath, "journal, queue file, secret"] = Path("/var/lib/t3flow")
    freeze_file: Annotated[AbsolutePath, "while this file exists, nothing is updated"] = Path(
        "/etc/t3-autoupdate.freeze"
    )
    last_good_file: Annotated[AbsolutePath, "the version that was accepted last"] = Path(
        "/var/lib/t3-autoupdate/last-good"
    )
    backup_dir: Annotated[AbsolutePath, "snapshots of databases, by user"] = Path("/var/backups/t3-state")
    versions_dir: Annotated[AbsolutePath, "installed versions, each user's link to theirs, and the default's"] = Path(
        "/opt/t3"
    )
    launcher: Annotated[AbsolutePath, "the t3 that units and people run"] = Path("/usr/bin/t3")
    scratch_dir: Annotated[AbsolutePath, "where candidates are staged and tried; must hold a few GB"] = Path("/var/tmp")
    user_map: Annotated[AbsolutePath, "lines authentik_name=os_user: who works as which user"] = Path(
        "/etc/ttyd-user-map"
    )
    serve_env_dir: Annotated[AbsolutePath, "USER.env with T3_PORT=…"] = Path("/etc/t3-serve")


class Serve(NamedTuple):
    """The users' servers."""

    backend: Annotated[
        Literal["systemd", "process"],
        "who starts and stops servers; process is the sandbox's own small supervisor",
    ] = "systemd"
    unit: Annotated[
        str,
        "a user's service",
        Takes("the name of a .service unit with {user} in it", text_that(values.check_unit)),
    ] = "t3-serve@{user}.service"
    base_dir: Annotated[
        str,
        "the folder that a user's server keeps everything in",
        Takes("an absolute path that begins with {home} or has {user} in it", text_that(values.check_base_dir)),
    ] = "{home}/.t3"
    agent_processes: Annotated[
        list[str],
        "programs that count as agents below a server",
        Takes("a list of names of programs, each once", texts_that(values.check_process_name)),
    ] = ["claude", "codex", "opencode", "cursor-agent", "grok", "kiro-cli", "antigravity", "pi"]


class Dispatch(NamedTuple):
    """How browsers are paired, and how pairing is verified."""

    url: Annotated[
        str,
        "the dispatch, as the proxy before it reaches it",
        Takes("http://HOST:PORT or https://HOST:PORT", text_that(values.dispatch_url)),
    ] = "http://127.0.0.1:3780"
    user_header: Annotated[HeaderToken, "header that names the person"] = "X-authentik-username"
    cookie: Annotated[CookieName, "cookie that a paired browser holds; empty: what each user's own server calls it"] = (
        ""
    )
    pair_endpoints: Annotated[
        list[str],
        "where credentials are exchanged, in the order of trying; on 404 the next",
        Takes("a list of paths, each beginning with /", texts_that(values.check_endpoint, smallest=1)),
    ] = ["/api/auth/browser-session", "/api/auth/bootstrap"]
    verify_timeout_s: Annotated[Timeout, "how long a user may take until pairing works"] = 30
    log: Annotated[
        str,
        "where the dispatch logs pairings, which are watched after a bump",
        Takes(
            'an absolute path, journal:UNIT for a unit\'s log in journald, or "" for none',
            text_that(values.check_log_source),
        ),
    ] = "journal:t3-dispatch.service"


class Gate(NamedTuple):
    """How a candidate is tried before anybody is led to it."""

    seeds: Annotated[
        str | list[str],
        "whose database copies a candidate must migrate",
        Takes('"all", "largest" or a list of users', values.seeds),
    ] = "all"
    port: Annotated[
        int,
        "port of the candidate's server while it is tried",
        Takes("a whole number from 1024 to 65535", number(1024, 65535, whole=True)),
    ] = 3799
    start_timeout_s: Annotated[Timeout, "how long a candidate's server may take to answer"] = 60
    limit_minutes: Annotated[
        float,
        "then the seeds not tried are inconclusive, their users deferred",
        Takes("minutes, above 0, at most a year", number(0.01, YEAR_SECONDS // 60)),
    ] = 60
    user: Annotated[
        str,
        "unprivileged account of t3flow's own that installs and tries candidates: all that runs as it is ended before a slot is copied",
        Takes("the name of an account that is not root", text_that(values.check_user_name)),
    ] = "t3flow"


class Canary(NamedTuple):
    """In which order users are restarted."""

    order: Annotated[
        Literal["smallest_first", "map_order"], "by the size of their databases, or as the user map lists them"
    ] = "smallest_first"


class Deferral(NamedTuple):
    """When a user who was busy is tried again."""

    quiet_seconds: Annotated[Delay, "how long nothing may have happened before a user is idle"] = 900
    window: Annotated[
        str,
        "when deferred users are migrated",
        Takes('HH:MM-HH:MM, over midnight too, or "" for any time', text_that(values.check_window)),
    ] = "01:00-05:40"
    max_check_interval_s: Annotated[Timeout, "the longest time between two checks in the window"] = 1200


class Backup(NamedTuple):
    """Snapshots of databases."""

    keep: Annotated[Count, "accepted versions whose snapshots are kept"] = 6
    timeout_s: Annotated[Timeout, "how long one user's snapshot may take"] = 900


class Schedule(NamedTuple):
    """When tracking runs on its own."""

    bump: Annotated[
        str, "when to look for a new version", Takes("a cron expression of five fields", text_that(values.check_cron))
    ] = "0 4 * * *"
    jitter_s: Annotated[
        float, "at most how much later than that", Takes("seconds from 0 to 86400", number(0, 86400))
    ] = 3600
    latest: Annotated[
        str,
        "a scheduled run that wakes later than this restarts nobody further",
        Takes('HH:MM, or "" for no limit', text_that(values.check_clock_time_or_none)),
    ] = "07:00"
    retry_s: Annotated[
        float,
        "how soon a run that the registry has stopped is tried again, as for a part that is not there yet; doubles up to 4 times; 0 = never",
        Takes("seconds from 0 to 3600", number(0, 3600)),
    ] = 300
    timezone: Annotated[
        str,
        "the time zone of bump, latest and the deferral window",
        Takes(
            'a time zone such as Europe/Vienna or CET-1CEST,M3.5.0,M10.5.0/3, or "" for that of the consumer\'s TZ, else of /etc/localtime',
            text_that(values.check_timezone),
        ),
    ] = ""


class Bake(NamedTuple):
    """Watching real pairings after a bump."""

    minutes: Annotated[
        float,
        "how long real pairings are watched after a bump; 0 = off",
        Takes("minutes, 0 or more, at most a year", number(0, YEAR_SECONDS // 60)),
    ] = 60
    max_failures: Annotated[Count, "how many failures in 10 minutes, of users on the new version, are borne"] = 3
    rollback: Annotated[bool, "true: roll back the users concerned, not only freeze"] = False


class Queue(NamedTuple):
    """Where the tasks wait."""

    url: Annotated[
        str,
        "Huey's queue",
        Takes(
            "sqlite:///FILE, redis://[:PASSWORD@]HOST[:PORT][/DATABASE], rediss://… or unix://[:PASSWORD@]/SOCKET",
            text_that(values.check_queue_url),
        ),
    ] = "sqlite:///var/lib/t3flow/queue.db"


class Npm(NamedTuple):
    """How npm is run."""

    command: Annotated[
        str,
        "npm's command",
        Takes("a name to be found on PATH, or an absolute path", text_that(values.check_command)),
    ] = "npm"
    timeout_s: Annotated[Timeout, "how long one call of npm may take"] = 600
    retry_for_s: Annotated[Delay, "how long an unreachable registry is tried again"] = 120
    verify_signatures: Annotated[
        Literal["auto", "require", "off"], "the registry's signatures: checked where it has keys, always, never"
    ] = "auto"


class Journal(NamedTuple):
    """The record of runs."""

    keep_days: Annotated[
        float,
        "how long runs that ended are kept, with all their steps",
        Takes("days from 1 to 3650", number(1, 3650)),
    ] = 90


class Log(NamedTuple):
    """What is logged, on stderr."""

    level: Annotated[Literal["DEBUG", "INFO", "WARNING", "ERROR", "CRITICAL"], "the least that is logged"] = "INFO"
    json: Annotated[bool, "one JSON document a line, for a collector"] = False


class Settings(NamedTuple):
    """All settings, as `settings.paths.versions_dir`; nothing of them changes after reading."""

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
    log: Log = Log()

    sources: Mapping[str, str] = MappingProxyType({})
    """Where the value of each `section.key` is from: `default`, `file PATH` or `environment NAME`."""


class Declared(NamedTuple):
    """One setting: what it means, what it takes in words that end "it takes …", how a value of TOML is read, its default."""

    meaning: str
    takes: str
    read: Callable[[object], Any]
    default: Any


def sections() -> dict[str, type[Any]]:
    """Each section's name and its class, in the order of the file."""
    return {name: kind for name, kind in Settings.__annotations__.items() if name != "sources"}


@cache
def declared() -> Mapping[str, Declared]:
    """Each `section.key` and its declaration, in the order of the file."""
    return {
        f"{section}.{name}": _declared(hint, kind._field_defaults[name])
        for section, kind in sections().items()
        for name, hint in kind.__annotations__.items()
    }


def _declared(hint: Any, default: Any) -> Declared:
    kind, parts = hint.__origin__, hint.__metadata__
    [meaning] = (part for part in parts if isinstance(part, str))
    if kind is bool:
        return Declared(meaning, "true or false", values.truth, default)
    for part in parts:
        if isinstance(part, Takes):
            return Declared(meaning, part.words, part.read, default)
    words = get_args(kind)
    return Declared(meaning, " or ".join(words), values.one_of(words), default)
