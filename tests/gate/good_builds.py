"""Unusual builds that the gate must pass, and packages that must never become a slot."""

from builds import Build, Package, again, answer, of, rule, sql

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
    Build("many-migrations", "forty migrations at once", [], behavior={"schema_level": 70}),
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

GOOD_GENERATIONS = [
    of("C", "native", "a launcher, a server and a monitor", []),
    of("C", "native-fresh", "the same on a base dir without a database", [], seed="fresh"),
    of("C", "native-migrates", "22 levels at once, from a Node package's database", [], seed="real"),
    of("C", "native-killed", "a database whose server was killed in mid-turn", [], seed="killed"),
    of("C", "native-keeps-identity", "a state with an identity of its own", [], seed="identified"),
    of("C", "native-slow-stop", "3.5 s to stop soon after the start", [], behavior={"early_stop_ms": 3500}),
    of("C", "no-monitor", "no monitor", [rule("no_monitor")]),
    of("C", "monitor-restarts", "a monitor that is started anew", [rule("monitor_restarts", seconds=0.5)]),
    of("C", "launcher-title", "a launcher that calls itself otherwise", [rule("launcher_title")]),
    of("C", "launcher-detaches", "a server in a session of its own", [rule("launcher_detaches")]),
    of(
        "C",
        "launcher-waits",
        "a launcher that ignores the stop and ends with its server",
        [rule("launcher_ignores_sigterm", when={"command": "serve"})],
    ),
    of(
        "C",
        "helper",
        "a process of its own session that ends when asked",
        [rule("leaves_process", ends_when_asked=True)],
    ),
    of("C", "probes", "agents asked for their versions now and then", [rule("probes_agents")]),
    of(
        "C",
        "reused-number",
        "a migration of another name, with its own table",
        [rule("ledger_reuses_id", id=46)],
        seed="real",
    ),
    of("B", "late", "both read endpoints", [], behavior={"schema_level": 41}),
    of("D", "second", "a second database", []),
    of("D", "second-made", "a second database, made from the first", [], seed="C"),
    of("D", "second-made-from-old", "the same from a database of level 30", [], seed="real"),
    of("D", "second-fresh", "the same on a base dir without a database", [], seed="fresh"),
    of("D", "run-in-flight", "a run that was cut off, and queued ones", [], seed="running"),
    of("D", "cache-database", "a database beside the state that is none", [rule("keeps_cache_database")]),
    of("D", "more-files", "small files beside the state", [rule("writes_files", files={"userdata/themes.json": "{}"})]),
    of(
        "D",
        "effects",
        "effects that are done at the start",
        [sql("update orchestration_v2_effect_outbox set status = 'succeeded'", at="opened")],
    ),
    of(
        "C",
        "pinned-cookie",
        "the cookie's name as an operator set it",
        [rule("wrong_cookie", name="t3_session")],
        settings={"cookie": "t3_session"},
    ),
]

PACKAGES = [
    Package("script-fails", "half an install", "an install script", script="exit 3"),
    Package(
        "wrong-version", "another version than was asked for", "the package says it is", manifest={"version": "9.9.9"}
    ),
    Package("no-program", "no t3", "no program", manifest={"bin": {}}),
    Package("link-out", "a file of the host's in the slot", "leads out of it", script="ln -s /etc/passwd passwd"),
    Package("fifo-inside", "readers of the slot hang", "not a regular file", script="mkfifo fifo"),
    Package(
        "hard-link", "a file that is changed from outside", "not a regular file", script="echo 1 > one; ln one two"
    ),
]

GOOD += GOOD_GENERATIONS

UNKNOWN = [
    of("E", "all-unknown", "nothing is as it was", [], "exchanges", says="session", seed="D"),
    of(
        "D",
        "unknown-database",
        "a live database of another name",
        [rule("unknown_database")],
        "knows_its_state",
        says="journal3.sqlite",
    ),
    of(
        "C",
        "unknown-activity",
        "no table of work in progress",
        [rule("unknown_activity")],
        "knows_its_state",
        says="state.sqlite",
    ),
    of(
        "C",
        "unknown-read-api",
        "no read endpoint that was there before",
        [rule("unknown_read_api")],
        "reads_rows",
        says="neither",
    ),
    of(
        "B",
        "unknown-read-api-early",
        "no read endpoint that was there before",
        [rule("unknown_read_api")],
        "reads_rows",
        says="neither",
    ),
    of(
        "C",
        "no-session-document",
        "nothing says what the cookie is called",
        [rule("no_session_document")],
        "exchanges",
        says="session",
    ),
    of(
        "D",
        "unknown-status",
        "a run with an unknown status",
        [sql("update orchestration_v2_projection_runs set status = 'dreaming'", at="opened")],
        "knows_its_state",
        says="dreaming",
    ),
]
"""Builds on which the gate gives no verdict: they are not bad, and nothing is known by which they could be called good."""
