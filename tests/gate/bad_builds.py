"""The builds that the gate must stop."""

from typing import Any

from bad_generations import BAD_GENERATIONS
from builds import (
    ENVIRONMENT,
    EXCHANGE,
    FIRST_S,
    ISSUE,
    MINT,
    SESSION,
    SHORT_S,
    SNAPSHOT,
    Build,
    Rule,
    again,
    answer,
    printing,
    rule,
    sql,
)

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
    Build(
        "other-port",
        "a server on a port that no client uses",
        [rule("listens_elsewhere")],
        "answers",
        start_timeout_s=FIRST_S,
    ),
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
        "mints exchanges authenticates pairs_another knows_its_state reads_rows rests stops",
    ),
    Build("environment-404", "the running version is unknown", [answer(ENVIRONMENT, status=404)], "runs_its_own_code"),
    Build(
        "environment-lies",
        "another version runs than was started",
        [rule("alters", when={"path": ENVIRONMENT}, json={"serverVersion": "0.0.24"})],
        "runs_its_own_code",
    ),
]

PAIRING = [
    Build("mint-fails", "no user can pair", [rule("mint_fails")], "mints"),
    Build("mint-hangs", "pairing hangs", [rule("mint_hangs")], "mints", start_timeout_s=SHORT_S),
    Build("mint-no-json", "no user can pair", [printing(MINT, text="Pairing code: 2345-6789")], "mints"),
    Build("mint-nothing", "no user can pair, and the command succeeds", [printing(MINT)], "mints"),
    Build(
        "mint-no-credential",
        "no user can pair",
        [rule("alters", when={"command": f"{MINT}"}, without=["credential"])],
        "mints",
    ),
    Build(
        "mint-floods",
        "the disk is full",
        [rule("fills_disk", output=True, at="opened", when={"command": MINT})],
        "mints",
        "disk",
        cell=True,
    ),
    Build("exchange-404", "no user can pair: the incident of 2026-06-09", [rule("pairing_404")], "exchanges"),
    Build("exchange-renamed", "no user can pair", [rule("renamed_endpoint", path="/api/v2/pair")], "exchanges"),
    Build("exchange-500", "no user can pair", [rule("pairing_500")], "exchanges"),
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
        "session-no-json",
        "a page in place of the session",
        [answer(SESSION, text="<!doctype html>")],
        "exchanges authenticates",
    ),
    Build("session-500", "paired, and an error", [answer(SESSION, status=500)], "exchanges authenticates"),
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
    Build("owner-no-session", "the owner gets no token", [printing(ISSUE, exit_code=1)], "reads_rows"),
    Build("owner-refused", "the owner is refused everywhere", [answer(SNAPSHOT, status=401)], "reads_rows"),
]


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
        "file-moved",
        "a link in place of the database",
        [rule("damages", how="linked", at="stop")],
        "keeps_integrity starts_again",
    ),
    Build(
        "file-replaced",
        "all data is gone, and all works",
        [rule("damages", how="gone", at="start")],
        "reads_rows keeps_rows",
    ),
    Build(
        "file-deleted",
        "all data is gone after the next restart",
        [rule("damages", how="gone", at="stop")],
        "keeps_integrity starts_again",
    ),
    Build(
        "stop-loses-rows",
        "all data is gone after the next restart",
        [sql("delete from projection_threads", at="opened", when={"started_before": True})],
        "starts_again keeps_rows",
    ),
]

ANY = (
    "answers runs_its_own_code mints exchanges authenticates pairs_another knows_its_state reads_rows rests keeps_to_its_port "
    "logs_no_migration_error stops leaves_nothing keeps_its_identity starts_again"
)


def taking(name: str, seen: str, says: str, *rules: Rule, **more: Any) -> Build:
    """Return a build that takes too much of the host: found by the check in progress."""
    return Build(name, seen, list(rules), ANY, says, cell=True, **more)


TAKING = [
    taking("memory", "the host swaps", "memory|ended on its own", rule("takes_memory")),
    taking("fork-bomb", "the host is full of processes", "processes", rule("forks")),
    taking("one-file", "the disk is full", "disk", rule("fills_disk")),
    taking("log-flood", "the disk is full", "disk", rule("fills_disk", output=True)),
    taking("many-files", "the disk has no inodes", "files", rule("fills_disk", files=40_000, megabytes=0)),
    taking("kills-parent", "its supervisor dies", "ended|killed", rule("kills", whom="parent")),
    taking("kills-all", "all of the user's work dies", "ended|killed", rule("kills", whom="all")),
    taking("deletes-install", "no page, and no next start", "", rule("deletes", what="install")),
    Build("mines", "all cores are busy while no user works", [rule("burns")], "rests", start_timeout_s=SHORT_S),
    Build("mines-one", "one core is busy for ever", [rule("burns", threads=1)], "rests", start_timeout_s=SHORT_S),
    Build("daemon", "a process that survives the stop", [rule("leaves_process")], "stops", start_timeout_s=SHORT_S),
    Build(
        "daemon-with-log",
        "a process that keeps the log open",
        [rule("leaves_process", holds_output=True)],
        "stops",
        start_timeout_s=SHORT_S,
    ),
    Build(
        "child-at-stop",
        "a process that survives the stop",
        [rule("leaves_process", at="stop")],
        "stops leaves_nothing",
        start_timeout_s=SHORT_S,
    ),
    Build(
        "child-at-second-stop",
        "a process that survives the stop",
        [again("leaves_process", at="stop")],
        "stops_again",
        start_timeout_s=SHORT_S,
    ),
    Build("listens-too", "an unexpected open port", [rule("listens_too")], "keeps_to_its_port", cell=True),
    Build("deletes-base-dir", "all data is gone", [rule("deletes", what="base_dir", at="stop")], "leaves_nothing"),
    Build("setuid", "any account can become the user", [rule("plants", what="setuid")], "leaves_nothing"),
    Build("fifo", "readers of the folder hang", [rule("plants", what="fifo")], "leaves_nothing"),
    Build("stops-in-error", "a stop that its manager reports", [rule("stops_oddly", exit_code=1)], "stops"),
    Build(
        "ignores-sigterm",
        "a server that cannot be restarted",
        [rule("ignores_sigterm")],
        "stops",
        start_timeout_s=SHORT_S,
    ),
]

BAD = {
    "starting": STARTING, "pairing": PAIRING, "reading": READING, "migrating": MIGRATING, "taking": TAKING, **BAD_GENERATIONS,
}  # fmt: skip
