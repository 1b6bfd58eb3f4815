"""Every setting: section, key, default, what it means and takes. The only list of them in the code."""

from pathlib import Path
from typing import Annotated, Literal

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, PrivateAttr

from t3flow import settings_values as values
from t3flow.settings_values import Takes, number, text_that, texts_that

AbsolutePath = Annotated[Path, BeforeValidator(values.absolute_path), Takes("an absolute path")]
Delay = Annotated[int | float, number(0, values.LONGEST_TIME_SECONDS), Takes("seconds, 0 or more, at most a year")]
Timeout = Annotated[int | float, number(0.001, values.LONGEST_TIME_SECONDS), Takes("seconds, above 0, at most a year")]
Minutes = Annotated[
    int | float, number(0, values.LONGEST_TIME_SECONDS // 60), Takes("minutes, 0 or more, at most a year")
]
Count = Annotated[int, number(1, 1_000_000), Takes("a whole number from 1 to 1000000")]
HeaderToken = Annotated[str, text_that(values.check_header_token), Takes("letters, digits and -, as in an HTTP header")]


class Section(BaseModel):
    """One table of the file: no other keys, no conversion of types, no change after reading."""

    model_config = ConfigDict(strict=True, extra="forbid", frozen=True, populate_by_name=False)


class Track(Section):
    """What to follow."""

    package: Annotated[str, text_that(values.check_package), Takes("the name of an npm package")] = Field(
        default="t3", description="npm package"
    )
    tag: Annotated[str, text_that(values.check_tag), Takes("a dist-tag, such as nightly")] = Field(
        default="nightly", description="dist-tag to follow"
    )
    pin: Annotated[str, text_that(values.check_pin), Takes('an exact version, or "" for none')] = Field(
        default="", description="exact version to hold, instead of following the tag"
    )
    min_age_hours: Annotated[
        int | float, number(0, values.LONGEST_TIME_SECONDS // 3600), Takes("hours, 0 or more, at most a year")
    ] = Field(default=0, description="how old a release must be before it is taken")


class Paths(Section):
    """Where things are."""

    state_dir: AbsolutePath = Field(default=Path("/var/lib/t3flow"), description="journal, queue file, secret")
    freeze_file: AbsolutePath = Field(
        default=Path("/etc/t3-autoupdate.freeze"), description="while this file exists, nothing is updated"
    )
    last_good_file: AbsolutePath = Field(
        default=Path("/var/lib/t3-autoupdate/last-good"), description="the version that was accepted last"
    )
    backup_dir: AbsolutePath = Field(
        default=Path("/var/backups/t3-state"), description="snapshots of databases, by user"
    )
    versions_dir: AbsolutePath = Field(
        default=Path("/opt/t3"),
        description="installed versions, each user's link to theirs, and the default's",
    )
    launcher: AbsolutePath = Field(default=Path("/usr/bin/t3"), description="the t3 that units and people run")
    scratch_dir: AbsolutePath = Field(
        default=Path("/var/tmp"), description="where candidates are staged and tried; must hold a few GB"
    )
    user_map: AbsolutePath = Field(
        default=Path("/etc/ttyd-user-map"),
        description="lines authentik_name=os_user: who works as which user",
    )
    serve_env_dir: AbsolutePath = Field(default=Path("/etc/t3-serve"), description="USER.env with T3_PORT=…")


class Serve(Section):
    """The users' servers."""

    backend: Literal["systemd", "process"] = Field(
        default="systemd",
        description="who starts and stops servers; process is the sandbox's own small supervisor",
    )
    unit: Annotated[str, text_that(values.check_unit), Takes("the name of a .service unit with {user} in it")] = Field(
        default="t3-serve@{user}.service", description="a user's service"
    )
    base_dir: Annotated[
        str,
        text_that(values.check_base_dir),
        Takes("an absolute path that begins with {home} or has {user} in it"),
    ] = Field(default="{home}/.t3", description="the folder that a user's server keeps everything in")
    agent_processes: Annotated[
        list[str], texts_that(values.check_process_name), Takes("a list of names of programs, each once")
    ] = Field(default=["claude", "codex", "opencode"], description="programs that count as agents below a server")


class Dispatch(Section):
    """How browsers are paired, and how pairing is verified."""

    url: Annotated[str, values.normalized(values.dispatch_url), Takes("http://HOST:PORT or https://HOST:PORT")] = Field(
        default="http://127.0.0.1:3780", description="the dispatch, as the proxy before it reaches it"
    )
    user_header: HeaderToken = Field(default="X-authentik-username", description="header that names the person")
    cookie: HeaderToken = Field(default="t3_session", description="cookie that a paired browser holds")
    pair_endpoints: Annotated[
        list[str],
        texts_that(values.check_endpoint, smallest=1),
        Takes("a list of paths, each beginning with /"),
    ] = Field(
        default=["/api/auth/browser-session", "/api/auth/bootstrap"],
        description="where credentials are exchanged, in the order of trying; on 404 the next",
    )
    verify_timeout_s: Timeout = Field(default=30, description="how long a user may take until pairing works")
    log: Annotated[
        str,
        text_that(values.check_log_source),
        Takes('an absolute path, journal:UNIT for a unit\'s log in journald, or "" for none'),
    ] = Field(
        default="journal:t3-dispatch.service",
        description="where the dispatch logs pairings, which are watched after a bump",
    )


class Gate(Section):
    """How a candidate is tried before anybody is led to it."""

    seeds: Annotated[
        Literal["all", "largest"] | list[str],
        BeforeValidator(values.seeds),
        Takes('"all", "largest" or a list of users'),
    ] = Field(default="all", description="whose database copies a candidate must migrate")
    port: Annotated[int, number(1024, 65535), Takes("a whole number from 1024 to 65535")] = Field(
        default=3799, description="port of the candidate's server while it is tried"
    )
    start_timeout_s: Timeout = Field(default=60, description="how long a candidate's server may take to answer")
    limit_minutes: Annotated[
        int | float,
        number(0.01, values.LONGEST_TIME_SECONDS // 60),
        Takes("minutes, above 0, at most a year"),
    ] = Field(default=60, description="then the seeds not tried are inconclusive, their users deferred")
    user: Annotated[str, text_that(values.check_user_name), Takes("the name of an account that is not root")] = Field(
        default="t3flow", description="unprivileged account that installs and tries candidates"
    )


class Canary(Section):
    """In which order users are restarted."""

    order: Literal["smallest_first", "map_order"] = Field(
        default="smallest_first", description="by the size of their databases, or as the user map lists them"
    )


class Deferral(Section):
    """When a user who was busy is tried again."""

    quiet_seconds: Delay = Field(default=900, description="how long nothing may have happened before a user is idle")
    window: Annotated[
        str, text_that(values.check_window), Takes('HH:MM-HH:MM, over midnight too, or "" for any time')
    ] = Field(default="01:00-05:40", description="when deferred users are migrated")
    max_check_interval_s: Timeout = Field(default=1200, description="the longest time between two checks in the window")


class Backup(Section):
    """Snapshots of databases."""

    keep: Count = Field(default=6, description="accepted versions whose snapshots are kept")
    timeout_s: Timeout = Field(default=900, description="how long one user's snapshot may take")


class Schedule(Section):
    """When tracking runs on its own."""

    bump: Annotated[str, text_that(values.check_cron), Takes("a cron expression of five fields")] = Field(
        default="0 4 * * *", description="when to look for a new version"
    )
    jitter_s: Annotated[int | float, number(0, 86400), Takes("seconds from 0 to 86400")] = Field(
        default=3600, description="at most how much later than that"
    )
    latest: Annotated[str, text_that(values.check_clock_time_or_none), Takes('HH:MM, or "" for no limit')] = Field(
        default="07:00", description="a scheduled run that wakes later than this restarts nobody further"
    )
    timezone: Annotated[
        str,
        text_that(values.check_timezone),
        Takes('a time zone such as Europe/Vienna, or "" for the host\'s'),
    ] = Field(default="", description="the time zone of bump, latest and the deferral window")


class Bake(Section):
    """Watching real pairings after a bump."""

    minutes: Minutes = Field(default=60, description="how long real pairings are watched after a bump; 0 = off")
    max_failures: Count = Field(default=3, description="how many failures in 10 minutes are borne")
    rollback: bool = Field(default=False, description="true: roll back the users concerned, not only freeze")


class Queue(Section):
    """Where the tasks wait."""

    url: Annotated[
        str,
        text_that(values.check_queue_url),
        Takes("sqlite:///FILE, redis://[:PASSWORD@]HOST[:PORT][/DATABASE], rediss://… or unix://[:PASSWORD@]/SOCKET"),
    ] = Field(default="sqlite:///var/lib/t3flow/queue.db", description="Huey's queue")


class Npm(Section):
    """How npm is run."""

    command: Annotated[
        str, text_that(values.check_command), Takes("a name to be found on PATH, or an absolute path")
    ] = Field(default="npm", description="npm's command")
    timeout_s: Timeout = Field(default=600, description="how long one call of npm may take")
    retry_for_s: Delay = Field(default=120, description="how long an unreachable registry is tried again")
    verify_signatures: Literal["auto", "require", "off"] = Field(
        default="auto", description="the registry's signatures: checked where it has keys, always, never"
    )


class Log(Section):
    """What is logged, on stderr."""

    level: Literal["DEBUG", "INFO", "WARNING", "ERROR", "CRITICAL"] = Field(
        default="INFO", description="the least that is logged"
    )
    as_json: bool = Field(default=False, alias="json", description="one JSON document a line, for a collector")


class Settings(Section):
    """All settings. Read them as `settings.paths.versions_dir`; only `log.json` is `settings.log.as_json`."""

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
    log: Log = Log()

    _sources: dict[str, str] = PrivateAttr(default_factory=dict)

    @property
    def sources(self) -> dict[str, str]:
        """For each `section.key`: `default`, `file PATH` or `environment NAME`."""
        return {key: self._sources.get(key, "default") for key in keys()}


def sections() -> dict[str, type[Section]]:
    """Each section's name and its model, in the order of the file."""
    kinds = {name: info.annotation for name, info in Settings.model_fields.items()}
    return {name: kind for name, kind in kinds.items() if isinstance(kind, type) and issubclass(kind, Section)}


def keys() -> list[str]:
    """Every `section.key`, in the order of the file."""
    return [
        f"{section}.{info.alias or name}"
        for section, kind in sections().items()
        for name, info in kind.model_fields.items()
    ]
