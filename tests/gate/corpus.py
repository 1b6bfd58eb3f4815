"""The builds that the gate is tried on: those that it must stop, and those that it must let through. Run it for the tables in docs/gate.md."""

from typing import Any, NamedTuple

VERSION = "0.0.25-nightly.20260609.501"
FIRST_S, SHORT_S = 2.0, 3.0  # for builds that hang at first, and later
MINT, ISSUE = "auth pairing create", "auth session issue"
EXCHANGE, SESSION, SNAPSHOT = "/api/auth/browser-session", "/api/auth/session", "/api/orchestration/snapshot"
ENVIRONMENT = "/.well-known/t3/environment"

Rule = dict[str, Any]


class Build(NamedTuple):
    """One build of the stand-in, `name` its test's and `seen` what people would see of it."""

    name: str
    seen: str
    rules: list[Rule]
    fails: str = ""  # the checks that may find it, apart by blanks; none for a good build
    says: str = ""  # what the evidence must say then: a regular expression
    seed: str = "real"  # the database that it is tried on: see seeds.py
    start_timeout_s: float = 15.0
    behaviour: Rule = {}
    settings: Rule = {}  # of [dispatch]
    version: str = VERSION
    cell: bool = False  # only tried where the host gives namespaces: elsewhere it would reach the test itself


def rule(fault: str, **more: Any) -> Rule:
    """A rule of the stand-in, with its conditions under `when`."""
    return {"fault": fault, **more}


def answer(path: str, **more: Any) -> Rule:
    """A rule by which a path is answered wrongly."""
    return rule("answers", when={"path": path}, **more)


def printing(command: str, **more: Any) -> Rule:
    """A rule by which a command prints and ends, or hangs, instead of doing its work."""
    return rule("prints", when={"command": command}, **more)


def again(fault: str, **more: Any) -> Rule:
    """A rule for every start of the server but the first."""
    return rule(fault, when={"started_before": True}, **more)


STARTING = [
    Build(
        "version-nothing",
        "the program does nothing, with success",
        [rule("version_prints_nothing")],
        "says_its_version",
    ),
    Build(
        "version-lies",
        "another program than was asked for",
        [rule("version_lies", text="t3 v9.9.9")],
        "says_its_version",
    ),
    Build("version-exit", "the program crashes", [printing("--version", exit_code=7)], "says_its_version"),
    Build(
        "version-hangs",
        "the program hangs",
        [printing("--version", hangs=True)],
        "says_its_version",
        start_timeout_s=FIRST_S,
    ),
    Build("exits-at-once", "no server", [rule("exits", at="start")], "answers"),
    Build("exits-cleanly", "no server, and nothing says why", [rule("exits", at="start", exit_code=0)], "answers"),
    Build("never-listens", "no server, for ever", [rule("hang_at_start")], "answers", start_timeout_s=FIRST_S),
    Build("other-port", "a server where nobody looks", [rule("listens_elsewhere")], "answers", start_timeout_s=FIRST_S),
    Build("closes", "every request is cut off", [rule("closes_connections")], "answers", start_timeout_s=FIRST_S),
    Build("root-404", "no page", [answer("/", status=404)], "answers", start_timeout_s=FIRST_S),
    Build("root-500", "no page", [answer("/", status=500)], "answers", start_timeout_s=FIRST_S),
    Build("root-hangs", "a page that never comes", [answer("/", hangs=True)], "answers", start_timeout_s=FIRST_S),
    Build("root-drips", "a page that never ends", [answer("/", drips=True)], "answers", start_timeout_s=FIRST_S),
    Build("no-http", "another protocol", [rule("speaks_no_http")], "answers", start_timeout_s=FIRST_S),
    Build(
        "too-slow",
        "a server long after the limit",
        [rule("slow_start", seconds=60)],
        "answers",
        start_timeout_s=FIRST_S,
    ),
    Build(
        "crashes-soon", "a server for a moment", [rule("crash_after", seconds=0.05)], "answers runs_its_own_code mints"
    ),
    Build(
        "crashes-later",
        "a server for a second",
        [rule("crash_after", seconds=0.7)],
        "mints exchanges authenticates reads_rows rests stops",
    ),
    Build("environment-404", "nobody can tell what runs", [answer(ENVIRONMENT, status=404)], "runs_its_own_code"),
    Build(
        "environment-lies",
        "another version runs than was started",
        [rule("alters", when={"path": ENVIRONMENT}, json={"serverVersion": "0.0.24"})],
        "runs_its_own_code",
    ),
]

PAIRING = [
    Build("mint-fails", "nobody can pair", [rule("mint_fails")], "mints"),
    Build("mint-hangs", "pairing hangs", [rule("mint_hangs")], "mints", start_timeout_s=SHORT_S),
    Build("mint-no-json", "nobody can pair", [printing(MINT, text="Pairing code: 2345-6789")], "mints"),
    Build("mint-nothing", "nobody can pair, and the command succeeds", [printing(MINT)], "mints"),
    Build(
        "mint-no-credential",
        "nobody can pair",
        [rule("alters", when={"command": f"{MINT}"}, without=["credential"])],
        "mints",
    ),
    Build(
        "mint-floods",
        "the disk is full",
        [rule("fills_disk", output=True, at="opened", when={"command": MINT})],
        "mints",
        "disk|exit code 1",
        cell=True,
    ),
    Build("exchange-404", "nobody can pair: the incident of 2026-06-09", [rule("pairing_404")], "exchanges"),
    Build("exchange-renamed", "nobody can pair", [rule("renamed_endpoint", path="/api/v2/pair")], "exchanges"),
    Build("exchange-500", "nobody can pair", [rule("pairing_500")], "exchanges"),
    Build("exchange-401", "every credential is refused", [answer(EXCHANGE, status=401, text="no")], "exchanges"),
    Build(
        "exchange-302",
        "the browser is sent elsewhere",
        [answer(EXCHANGE, status=302, headers={"location": "/"})],
        "exchanges",
    ),
    Build("exchange-hangs", "pairing hangs", [answer(EXCHANGE, hangs=True)], "exchanges", start_timeout_s=SHORT_S),
    Build("cookie-renamed", "the dispatch finds no cookie", [rule("wrong_cookie", name="t3_auth")], "exchanges"),
    Build("cookie-none", "the browser has no session", [rule("no_cookie")], "exchanges"),
    Build(
        "cookie-empty",
        "the browser has no session",
        [rule("cookies", set=["t3_session=; Path=/"])],
        "exchanges authenticates",
    ),
    Build(
        "cookie-forged", "a session that opens nothing", [rule("cookies", set=["t3_session=abc.def"])], "authenticates"
    ),
    Build("session-unknown", "paired, and asked to pair again", [rule("session_not_authenticated")], "authenticates"),
    Build(
        "session-no-json", "a page in place of the session", [answer(SESSION, text="<!doctype html>")], "authenticates"
    ),
    Build("session-500", "paired, and an error", [answer(SESSION, status=500)], "authenticates"),
]

READING = [
    Build(
        "snapshot-500",
        "server up, migrated, and no row can be read (t3code #2325)",
        [rule("snapshot_fails")],
        "reads_rows",
    ),
    Build("snapshot-no-json", "an empty window", [answer(SNAPSHOT, text="<!doctype html>")], "reads_rows"),
    Build("snapshot-nested", "a window that crashes", [answer(SNAPSHOT, text="[" * 200_000)], "reads_rows"),
    Build(
        "snapshot-hangs",
        "a window that never fills",
        [answer(SNAPSHOT, hangs=True)],
        "reads_rows",
        start_timeout_s=SHORT_S,
    ),
    Build(
        "snapshot-empty",
        "all projects are gone",
        [rule("alters", when={"path": SNAPSHOT}, json={"projects": [], "threads": []})],
        "reads_rows",
    ),
    Build(
        "snapshot-no-threads",
        "all threads are gone",
        [rule("alters", when={"path": SNAPSHOT}, without=["threads"])],
        "reads_rows",
    ),
    Build("owner-no-session", "no owner can be let in", [printing(ISSUE, exit_code=1)], "reads_rows"),
    Build("owner-refused", "the owner is let in nowhere", [answer(SNAPSHOT, status=401)], "reads_rows"),
]


def sql(*statements: str, at: str = "migration", **more: Any) -> Rule:
    """A rule by which a build runs SQL of its own."""
    return rule("runs_sql", at=at, sql=list(statements), **more)


MIGRATING = [
    Build("migration-throws", "a server in a crash loop (t3code #3038)", [rule("migration_throws")], "answers"),
    Build(
        "migration-throws-on-one",
        "one user's server in a crash loop",
        [rule("migration_throws", when={"database_has_project_title": "ünïcode 🦊"})],
        "answers",
        seed="unicode",
    ),
    Build(
        "migration-hangs", "no server, for ever", [rule("hangs", at="migration")], "answers", start_timeout_s=FIRST_S
    ),
    Build("migration-loses-rows", "half of the messages are gone", [rule("migration_loses_rows")], "keeps_rows"),
    Build(
        "migration-hides",
        "all threads look deleted",
        [sql("update projection_threads set deleted_at = updated_at"), rule("hides_deleted")],
        "reads_rows",
    ),
    Build("migration-drops", "all turns are gone", [sql("drop table projection_turns")], "keeps_rows"),
    Build("migration-empties", "the history is gone", [sql("delete from orchestration_events")], "keeps_rows"),
    Build(
        "migration-orphans",
        "rows that refer to nothing",
        [
            sql(
                "pragma foreign_keys = off",
                "create table if not exists stand_in_child (id integer primary key, parent text references projection_projects(project_id))",
                "insert into stand_in_child (parent) values ('nobody')",
                at="opened",
            )
        ],
        "keeps_integrity",
    ),
    Build(
        "migration-logs",
        "half migrated, and a server that goes on",
        [rule("logs_migration_error")],
        "logs_no_migration_error",
    ),
    Build(
        "migration-unrecorded",
        "a crash loop from the second start on",
        [sql("create table stand_in_once (id integer)", at="opened", when={"command": "serve"})],
        "starts_again",
    ),
    Build("second-start-fails", "a crash loop from the second start on", [rule("second_start_fails")], "starts_again"),
    Build(
        "second-start-hangs",
        "no server after the next restart",
        [again("hangs", at="start")],
        "starts_again",
        start_timeout_s=SHORT_S,
    ),
    Build(
        "second-start-crashes",
        "a crash a moment after each restart",
        [again("crash_after", seconds=0.05)],
        "starts_again",
    ),
    Build(
        "page-broken",
        "some rows can no longer be read",
        [rule("damages", how="page", at="stop")],
        "keeps_integrity starts_again",
    ),
    Build(
        "file-truncated",
        "half of the file is gone",
        [rule("damages", how="truncated", at="stop")],
        "starts_again keeps_integrity",
    ),
    Build(
        "file-moved", "a link in place of the database", [rule("damages", how="linked", at="stop")], "keeps_integrity"
    ),
    Build(
        "file-replaced",
        "everything is gone, and all works",
        [rule("damages", how="gone", at="start")],
        "reads_rows keeps_rows",
    ),
    Build(
        "file-deleted",
        "everything is gone after the next restart",
        [rule("damages", how="gone", at="stop")],
        "keeps_integrity",
    ),
    Build(
        "stop-loses-rows",
        "everything is gone after the next restart",
        [sql("delete from projection_threads", at="opened", when={"started_before": True})],
        "starts_again keeps_rows",
    ),
]

ANY = (
    "answers runs_its_own_code mints exchanges authenticates reads_rows rests keeps_to_its_port logs_no_migration_error "
    "stops leaves_nothing starts_again"
)


def taking(name: str, seen: str, says: str, *rules: Rule, **more: Any) -> Build:
    """A build that takes what is not its own: found by whichever check is under way."""
    return Build(name, seen, list(rules), ANY, says, cell=True, **more)


TAKING = [
    taking("memory", "the host swaps", "memory|ended on its own", rule("takes_memory")),
    taking("fork-bomb", "the host is full of processes", "processes", rule("forks")),
    taking("one-file", "the disk is full", "disk|ended on its own", rule("fills_disk")),
    taking("log-flood", "the disk is full", "disk|ended on its own", rule("fills_disk", output=True)),
    taking("many-files", "the disk has no inodes", "files", rule("fills_disk", files=100_000, megabytes=0)),
    taking("kills-parent", "its supervisor dies", "ended", rule("kills", whom="parent")),
    taking("kills-all", "all of the user's work dies", "ended", rule("kills", whom="all")),
    taking("deletes-install", "no page, and no next start", "", rule("deletes", what="install")),
    Build("mines", "all cores are busy while nobody works", [rule("burns")], "rests", start_timeout_s=SHORT_S),
    Build("mines-one", "one core is busy for ever", [rule("burns", threads=1)], "rests", start_timeout_s=SHORT_S),
    Build("daemon", "a process that nobody ends", [rule("leaves_process")], "leaves_nothing"),
    Build(
        "daemon-with-log",
        "a process that keeps the log open",
        [rule("leaves_process", holds_output=True)],
        "leaves_nothing",
    ),
    Build("child-at-stop", "a process that nobody ends", [rule("leaves_process", at="stop")], "leaves_nothing"),
    Build(
        "child-at-second-stop",
        "a process that nobody ends",
        [again("leaves_process", at="stop")],
        "stops_again",
    ),
    Build("listens-too", "a door that nobody knows of", [rule("listens_too")], "keeps_to_its_port", cell=True),
    Build("deletes-base-dir", "everything is gone", [rule("deletes", what="base_dir", at="stop")], "leaves_nothing"),
    Build("setuid", "anybody becomes the user", [rule("plants", what="setuid")], "leaves_nothing"),
    Build("fifo", "whoever reads the folder hangs", [rule("plants", what="fifo")], "leaves_nothing"),
    Build("ignores-sigterm", "a server that cannot be restarted", [rule("ignores_sigterm")], "stops"),
]

BAD = {"starting": STARTING, "pairing": PAIRING, "reading": READING, "migrating": MIGRATING, "taking": TAKING}

GOOD = [
    Build("plain", "nothing unusual", []),
    Build("slow-start", "a first answer after 5 s", [rule("slow_start", seconds=5, when={"started_before": False})]),
    Build(
        "renamed-endpoint",
        "an endpoint that the settings name",
        [rule("renamed_endpoint", path="/api/v2/pair")],
        settings={"pair_endpoints": ["/api/auth/browser-session", "/api/auth/bootstrap", "/api/v2/pair"]},
    ),
    Build("noisy-log", "log lines with the words failed and migration", [rule("log_noise")]),
    Build(
        "warnings",
        "warnings",
        [
            rule("logs", text="migration 12 took 3 ms longer than usual"),
            rule("logs", text="deprecated: a setting that failed before"),
        ],
    ),
    Build(
        "other-error",
        "an error about something else",
        [rule("logs", level="ERROR", text="telemetry failed: ENOTFOUND")],
    ),
    Build("empty-file", "a database file of no bytes", [], seed="empty"),
    Build("fresh", "a base dir without a database", [], seed="fresh"),
    Build("big", "a database of 60 MB", [], seed="big"),
    Build(
        "new-table",
        "a new table, filled from another",
        [sql("create table stand_in_new as select * from projection_threads")],
    ),
    Build(
        "new-column",
        "a new column and an index on it",
        [
            sql(
                "alter table projection_threads add column stand_in text default ''",
                "create index stand_in_index on projection_threads (stand_in)",
            )
        ],
    ),
    Build("many-migrations", "forty migrations at once", [], behaviour={"schema_level": 70}),
    Build(
        "more-cookies",
        "three cookies, one of them the session's",
        [rule("cookies", set=["theme=dark", "{}", "lang=de; Path=/"])],
    ),
    Build("more-fields", "more fields in each JSON answer", [rule("alters", json={"stand_in": {"new": [1, None]}})]),
    Build("exit-0", "exit code 0 when stopped", [rule("stops_oddly", exit_code=0)]),
    Build("exit-143", "exit code 143 when stopped", [rule("stops_oddly", exit_code=143)]),
    Build("abrupt-stop", "stops without closing its database", [rule("stops_oddly", abruptly=True)]),
    Build("slow-stop", "three seconds until it has stopped", [again("stops_oddly", seconds=3)]),
    Build("busy-at-first", "a busy core for 3 s after the start", [rule("burns", threads=1, seconds=3)]),
    Build("much-memory", "400 MB of memory", [rule("takes_memory", megabytes=400)]),
    Build("agent", "a child that ends with the server", [rule("starts_agent")]),
    Build("cache", "a thousand files in the base dir", [rule("fills_disk", files=1000, megabytes=10)]),
    Build("old-orphans", "a database that had orphans before", [], seed="orphans"),
    Build("dead-turn", "a database whose turns were cut off", [], seed="turns"),
    Build("unicode", "texts of all planes", [], seed="unicode"),
    Build("hides-deleted", "deleted threads are no longer shown", [rule("hides_deleted")], seed="deleted"),
    Build("big-page", "a front page of 3 MB", [answer("/", text="<!doctype html>" + "<p>t3</p>" * 330_000)]),
    Build(
        "cookie-by-port",
        "a cookie that is named otherwise on loopback: the 17 days",
        [],
        version="0.0.34-nightly.20260701.601",
    ),
    Build(
        "vacuums",
        "a database that is packed anew at each start",
        [sql("vacuum", at="opened", when={"command": "serve"})],
    ),
]


class Package(NamedTuple):
    """A package that never gets as far as a trial: `script` is its install script, `manifest` what its package.json says."""

    name: str
    seen: str
    caught: str
    script: str = ""
    manifest: dict[str, Any] = {}


PACKAGES = [
    Package("script-fails", "half an install", "an install script", script="exit 3"),
    Package(
        "wrong-version", "another version than was asked for", "the package says it is", manifest={"version": "9.9.9"}
    ),
    Package("no-program", "no t3", "no program", manifest={"bin": {}}),
    Package("link-out", "a file of the host's in the slot", "leads out of it", script="ln -s /etc/passwd passwd"),
    Package("fifo-inside", "whoever reads the slot hangs", "no plain file", script="mkfifo fifo"),
    Package("hard-link", "a file that is changed from outside", "no plain file", script="echo 1 > one; ln one two"),
]


def tables() -> str:
    """The tables of docs/gate.md."""
    lines = []
    for kind, builds in BAD.items():
        lines += [f"| {kind} | what people would see | caught by |", "|---|---|---|"]
        lines += [f"| {build.name} | {build.seen} | {_checks(build.fails)} |" for build in builds]
        lines.append("")
    lines += ["| installing | what people would see | refused with |", "|---|---|---|"]
    lines += [f"| {package.name} | {package.seen} | “… {package.caught} …” |" for package in PACKAGES]
    lines += ["", "| good | what is unusual |", "|---|---|"]
    lines += [f"| {build.name} | {build.seen} |" for build in GOOD]
    return "\n".join(lines)


def _checks(names: str) -> str:
    return "whichever is under way" if names == ANY else " or ".join(f"`{name}`" for name in names.split())


if __name__ == "__main__":
    print(tables())
