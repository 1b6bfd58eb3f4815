"""More builds that the gate must stop: faults of releases in parts, servers with a launcher, and sets with a second database."""

from builds import MINT, PLATFORM, SHELL, SHORT_S, again, answer, of, rule, sql

STOP_S = 5.0  # for builds that have to start in time, and never stop
EARLY = "answers runs_its_own_code mints exchanges authenticates pairs_another knows_its_state reads_rows rests stops"

PARTS = [
    of(
        "C",
        "no-platform-package",
        "no t3, and why is on stderr alone",
        [],
        "says_its_version",
        says="no T3 Code CLI build is available",
        without=("node_modules/@t3code",),
    ),
    of(
        "C",
        "no-executable",
        "a launcher that finds nothing to launch",
        [],
        "says_its_version",
        says="spawnSync",
        without=(f"{PLATFORM}/t3",),
    ),
    of(
        "C",
        "no-terminal",
        "a server for a moment: its terminal was never compiled",
        [],
        EARLY,
        says="ended on its own",
        without=(f"{PLATFORM}/node_modules/node-pty/build/Release/pty.node",),
    ),
    of("C", "native-silent", "a program that prints nothing", [rule("version_prints_nothing")], "says_its_version"),
    of("C", "native-crashes", "a server for a second", [rule("crash_after", seconds=1.0)], EARLY),
    of("C", "native-mint-fails", "no user can pair", [rule("mint_fails")], "mints"),
    of("C", "native-listens-too", "an unexpected open port", [rule("listens_too")], "keeps_to_its_port", cell=True),
    of(
        "C",
        "native-logs",
        "half migrated, and a server that goes on",
        [rule("logs_migration_error")],
        "logs_no_migration_error",
    ),
]

STOPPING = [
    of(
        "C",
        "launcher-stays",
        "a launcher that ignores the stop and waits for nothing",
        [rule("launcher_ignores_sigterm", stays_s=60, when={"command": "serve"})],
        "stops",
        start_timeout_s=STOP_S,
    ),
    of(
        "C",
        "server-outlives",
        "a server that outlives its launcher",
        [rule("ignores_sigterm")],
        "stops",
        start_timeout_s=STOP_S,
    ),
    of(
        "C",
        "server-outlives-later",
        "a server that outlives its launcher",
        [again("ignores_sigterm")],
        "stops_again",
        start_timeout_s=STOP_S,
    ),
    of(
        "C",
        "monitor-outlives",
        "a monitor that outlives its server",
        [rule("monitor_outlives")],
        "stops",
        start_timeout_s=STOP_S,
    ),
    of("C", "monitor-spins", "one core is busy for ever", [rule("monitor_spins")], "rests", start_timeout_s=SHORT_S),
    of(
        "C",
        "agent-outlives",
        "a child that ignores the stop",
        [rule("leaves_process")],
        "stops",
        start_timeout_s=STOP_S,
    ),
]

BROWSERS = [
    of(
        "",
        "second-browser",
        "a second browser cannot pair",
        [rule("second_pairing_fails")],
        "pairs_another",
        seed="real",
    ),
    of("C", "native-second-browser", "a second browser cannot pair", [rule("second_pairing_fails")], "pairs_another"),
    of(
        "C",
        "second-browser-later",
        "a second browser cannot pair after a restart",
        [again("second_pairing_fails")],
        "starts_again",
    ),
    of(
        "C",
        "one-browser-alone",
        "who pairs anew signs all other browsers out",
        [sql("delete from auth_sessions", at="opened", when={"command": MINT})],
        "pairs_another starts_again",
    ),
    of("C", "cookie-changes", "every browser is signed out at each restart", [rule("cookie_changes")], "starts_again"),
    of(
        "C",
        "identity-changes",
        "every browser is signed out",
        [rule("environment_id_changes")],
        "keeps_its_identity",
        seed="identified",
    ),
    of(
        "C",
        "identity-changes-later",
        "every browser is signed out at each restart",
        [again("environment_id_changes")],
        "starts_again",
    ),
    of(
        "B",
        "identity-changes-unseen",
        "clients take it for another server",
        [rule("environment_id_changes")],
        "stops_again",
        seed="B",
    ),
]

SHOWING = [
    of("C", "shell-hides", "a thread is gone", [rule("shell_hides_rows")], "reads_rows"),
    of("C", "shell-500", "server up, migrated, and no row can be read", [rule("snapshot_fails")], "reads_rows"),
    of("C", "shell-no-json", "an empty window", [answer(SHELL, text="<!doctype html>")], "reads_rows"),
    of("D", "shell-404", "an empty window", [answer(SHELL, status=404)], "reads_rows", seed="D"),
    of(
        "B",
        "shell-hides-late",
        "a thread is gone",
        [rule("shell_hides_rows")],
        "reads_rows",
        seed="B",
        behavior={"schema_level": 41},
    ),
    of("D", "shell-v2-hides", "all threads are gone", [rule("shell_hides_rows", count=99)], "reads_rows", seed="D"),
]

DATABASES = [
    of(
        "D",
        "copy-empty",
        "all data is gone: the new database was not made from the old",
        [rule("seeds_empty")],
        "reads_rows",
        seed="C",
    ),
    of(
        "D",
        "copy-of-another",
        "other threads than the user's: the new database was made from a wrong one",
        [
            sql(
                "update projection_threads set thread_id = 'x' || thread_id",
                "update projection_projects set project_id = 'x' || project_id",
            )
        ],
        "reads_rows",
        seed="C",
    ),
    of(
        "D",
        "copy-of-half",
        "half of the messages are gone in the new database",
        [sql("delete from projection_thread_messages where rowid % 2")],
        "keeps_rows",
        seed="C",
    ),
    of(
        "D",
        "copy-elsewhere",
        "the new database is where no backup finds it",
        [rule("database_elsewhere")],
        "knows_its_state",
        seed="C",
    ),
    of(
        "D",
        "first-emptied",
        "no way back: the old database is gone",
        [rule("writes_files", files={"userdata/state.sqlite": ""}, at="seeded")],
        "keeps_integrity keeps_rows",
        seed="C",
    ),
    of(
        "D",
        "second-copied-again",
        "all work since the copy is gone",
        [rule("damages", how="gone", at="start")],
        "reads_rows keeps_rows",
        seed="D",
    ),
    of(
        "D",
        "second-damaged",
        "some rows can no longer be read",
        [rule("damages", how="page", at="stop")],
        "keeps_integrity starts_again",
        seed="D",
    ),
    of(
        "D",
        "recovery-drops-queued",
        "what the user has queued is gone",
        [rule("recovery_drops_queued")],
        "keeps_rows",
        seed="running",
    ),
    of(
        "D",
        "recovery-cancels-queued",
        "what the user has queued is never begun",
        [sql("update orchestration_v2_projection_runs set status = 'cancelled' where status = 'queued'", at="opened")],
        "keeps_rows",
        seed="running",
    ),
    of(
        "C",
        "reused-numbers",
        "a database of a preview: the same numbers, other tables",
        [sql("select settled_at from projection_threads", at="opened")],
        "answers",
        seed="reused",
    ),
    of(
        "C",
        "reused-number-breaks",
        "a number that stood for something else",
        [rule("ledger_reuses_id", id=46, name="AuthPairingRewrite", sql=["drop table auth_pairing_links"])],
        "mints",
        seed="real",
    ),
    of(
        "C",
        "native-migration-drops",
        "all turns are gone",
        [sql("drop table projection_turns")],
        "keeps_rows",
        seed="real",
    ),
]

BAD_GENERATIONS = {
    "parts": PARTS, "stopping": STOPPING, "browsers": BROWSERS, "showing": SHOWING, "databases": DATABASES,
}  # fmt: skip
