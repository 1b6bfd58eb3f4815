"""The gate's judgement, end to end: who is blamed when a candidate fails, who is skipped, who is deferred, and when nobody is to blame."""

import json
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from scenes import ALL, FIRST, LATER, NEXT, bump, deferrals, drained, everybody_is_well, is_busy, results, write

from t3flow.sandbox.host import Sandbox

ODD = {"database_has_project_title": "odd"}
IN_SCRATCH = {"not_scratch": False}


def make_odd(box: Sandbox, *users: str) -> None:
    """Give users a project that some versions cannot read."""
    for user in users:
        write(
            box.database(user),
            "update projection_projects set title = 'odd' where rowid = (select min(rowid) from projection_projects)",
        )


def rule(fault: str, when: dict[str, Any], **more: Any) -> list[dict[str, Any]]:
    return [{"fault": fault, "when": when, **more}]


def verdicts(box: Sandbox, run: str) -> dict[tuple[str, str, str], dict[str, Any]]:
    """Return every verdict of a run: (step, version, seed) → verdict."""
    found = {}
    for event in box.document("show", run)["events"]:
        result = event["data"].get("result") if event["kind"] == "completed" else None
        for each in result if isinstance(result, list) else [result]:
            if isinstance(each, dict) and "verdict" in each:
                found[event["step"], each["version"], each["seed"]] = each
    return found


def nobody_was_touched(box: Sandbox, servers: dict[str, Any]) -> None:
    assert {user: box.supervise("status", user)["main_pid"] for user in box.users} == servers
    assert [entry.name for entry in (box.top / "opt/t3/versions").iterdir()] == [FIRST]
    assert list((box.top / "scratch").iterdir()) == []


def servers_of(box: Sandbox) -> dict[str, Any]:
    return {user: box.supervise("status", user)["main_pid"] for user in box.users}


def test_every_check_is_in_the_history(make_box: Callable[..., Sandbox]) -> None:
    """Each a named check with its own evidence, for each user's database."""
    box = make_box(["ada", "grace"])
    box.publish(NEXT, {"schema_level": 32})
    said = bump(box)
    assert said["outcome"] == "updated"
    found = verdicts(box, said["run"])
    assert set(found) == {("run_trials", NEXT, "ada"), ("run_trials", NEXT, "grace")}
    first, other = (seed["user"] for seed in steps_of(box, said["run"], "run_trials")[0])
    names = [check["name"] for check in found["run_trials", NEXT, first]["checks"]]
    assert names == [
        *(
            "says_its_version",
            "answers",
            "runs_its_own_code",
            "mints",
            "exchanges",
            "authenticates",
            "pairs_another",
            "knows_its_state",
            "reads_rows",
            "rests",
        ),
        *("keeps_to_its_port", "logs_no_migration_error", "stops", "leaves_nothing", "keeps_its_identity"),
        *("starts_again", "stops_again", "keeps_integrity", "keeps_rows"),
    ]
    assert [check["name"] for check in found["run_trials", NEXT, other]["checks"]] == names[1:], (
        "what the program prints is the same on any state"
    )
    evidence = {check["name"]: check["evidence"] for check in found["run_trials", NEXT, "ada"]["checks"]}
    assert evidence["reads_rows"] == "5 projects, 20 threads from GET /api/orchestration/snapshot"
    assert evidence["keeps_integrity"] == "state.sqlite: level 30 → 32, no new faults in 1 database(s)"
    assert found["run_trials", NEXT, "ada"]["not_isolated"] == ""
    people = box.t3flow("show", said["run"]).stdout
    assert "✓ reads_rows: 5 projects, 20 threads" in people
    assert "Gate: 2 databases, 2 in parallel" in people


def test_a_build_that_is_bad_for_one_is_refused_and_goes_on_without_them(make_box: Callable[..., Sandbox]) -> None:
    box = make_box(ALL)
    make_odd(box, "linus")
    servers = servers_of(box)
    box.publish(NEXT, {"schema_level": 32, "rules": rule("snapshot_fails", ODD)})
    said = bump(box)
    assert said["outcome"] == "gate_failed"
    assert "linus" in said["reason"]
    assert "GET /api/orchestration/snapshot" in said["reason"]
    assert "--without linus" in said["reason"]
    assert ("run_controls", FIRST, "linus") in verdicts(box, said["run"]), (
        "the version in use was tried on the same database"
    )
    nobody_was_touched(box, servers)
    assert NEXT in box.document("status")["rejected"]
    assert bump(box)["outcome"] == "refused_rejected"
    assert bump(box, "--without", "ada")["outcome"] == "refused_rejected", "ada is not the one it fails for"
    without = bump(box, "--without", "linus")
    assert without["outcome"] == "updated"
    assert results(without) == {"ada": "restarted", "grace": "restarted", "linus": "skipped"}
    everybody_is_well(box, {"ada": NEXT, "grace": NEXT, "linus": FIRST})
    box.publish(LATER, {"schema_level": 32})
    assert results(bump(box))["linus"] == "restarted", "a newer one is tried as usual"


def test_a_database_that_no_version_can_serve_skips_its_user(make_box: Callable[..., Sandbox]) -> None:
    broken = rule("snapshot_fails", {**ODD, **IN_SCRATCH})
    box = make_box(ALL, behavior={"schema_level": 30, "rules": broken})
    make_odd(box, "linus")
    box.publish(NEXT, {"schema_level": 32, "rules": broken})
    said = bump(box)
    assert said["outcome"] == "updated"
    assert results(said) == {"ada": "restarted", "grace": "restarted", "linus": "skipped"}
    assert f"{FIRST}, the version in use, fails as well" in said["users"]["linus"]["reason"]
    assert box.document("status")["rejected"] == {}
    everybody_is_well(box, {"ada": NEXT, "grace": NEXT, "linus": FIRST})


def test_when_most_databases_fail_with_both_nobody_is_blamed(make_box: Callable[..., Sandbox]) -> None:
    broken = rule("snapshot_fails", {**ODD, **IN_SCRATCH})
    box = make_box(ALL, behavior={"schema_level": 30, "rules": broken})
    make_odd(box, "ada", "linus")
    servers = servers_of(box)
    box.publish(NEXT, {"schema_level": 32, "rules": broken})
    said = bump(box)
    assert (said["outcome"], said["status"]) == ("gate_inconclusive", "failed")
    assert "2 of 3 databases" in said["reason"]
    nobody_was_touched(box, servers)
    assert box.document("status")["rejected"] == {}
    assert box.document("status")["frozen"] is None


def test_a_t3_of_a_kind_that_is_not_known_is_neither_good_nor_bad(make_box: Callable[..., Sandbox]) -> None:
    """Nothing is rejected or frozen, all users keep pairing, the log has the alert's words, and the next run retries."""
    box = make_box(["ada", "grace"])
    servers = servers_of(box)
    box.publish(NEXT, {"schema_level": 32, "rules": rule("unknown_activity", {})})
    for _ in range(2):
        said = bump(box)
        assert (said["outcome"], said["status"]) == ("gate_inconclusive", "failed")
        assert "does not know: state.sqlite has neither the table" in said["reason"]
        nobody_was_touched(box, servers)
        everybody_is_well(box, {"ada": FIRST, "grace": FIRST})
        status = box.document("status")
        assert (status["rejected"], status["frozen"]) == ({}, None)
    assert (box.top / "log" / "consumer.log").read_text().count("T3 UNKNOWN: t3 0.0.25") >= 2


def test_what_is_not_known_on_one_database_alone_holds_its_user(make_box: Callable[..., Sandbox]) -> None:
    """The other users are moved; that user stays, and the result says why."""
    box = make_box(ALL)
    make_odd(box, "linus")
    forgets = {"sql": ["drop table if exists projection_thread_sessions"], "at": "opened"}
    box.publish(NEXT, {"schema_level": 32, "rules": rule("runs_sql", {**ODD, **IN_SCRATCH}, **forgets)})
    said = bump(box)
    assert said["outcome"] == "updated"
    assert results(said) == {"ada": "restarted", "grace": "restarted", "linus": "deferred"}
    assert "this t3flow does not know" in said["users"]["linus"]["reason"]
    assert box.document("status")["rejected"] == {}
    everybody_is_well(box, {"ada": NEXT, "grace": NEXT, "linus": FIRST})


def test_a_gate_that_is_wrong_itself_rejects_no_good_build(make_box: Callable[..., Sandbox]) -> None:
    """For 17 days a gate that bound the wrong address expected a cookie that no version set there, and rejected every good one.

    Here it wants a wrong cookie by its settings: the version in use fails just so, on an empty base dir too.
    """
    box = make_box(ALL)
    servers = servers_of(box)
    right = box.config.read_text()
    box.end("consumer")
    box.config.write_text(right.replace("[dispatch]\n", '[dispatch]\ncookie = "t3_session_3799_abc"\n'))
    box.start_consumer()
    box.publish(NEXT, {"schema_level": 32})
    for _ in range(2):
        said = bump(box)
        assert (said["outcome"], said["status"]) == ("gate_inconclusive", "failed"), (
            "and it is tried again, not remembered"
        )
        assert "the gate or this host is at fault" in said["reason"]
        assert "does not set the cookie t3_session_3799_abc but t3_session" in said["reason"]
        assert box.t3flow("enqueue", "bump", "--wait").returncode == 1
    nobody_was_touched(box, servers)
    status = box.document("status")
    assert (status["rejected"], status["frozen"]) == ({}, None)
    assert "gate_inconclusive" in box.t3flow("status").stdout
    assert "GATE INCONCLUSIVE" in (box.top / "log" / "consumer.log").read_text()
    box.end("consumer")
    box.config.write_text(right)
    box.start_consumer()
    assert bump(box)["outcome"] == "updated"
    assert "gate_inconclusive" not in box.t3flow("status").stdout


def test_builds_that_name_their_cookie_by_the_port_on_loopback_pass(make_box: Callable[..., Sandbox]) -> None:
    """All do from 0.0.34 on: the gate binds 0.0.0.0 as production does, in its own network."""
    box = make_box(["ada"])
    version = "0.0.35-nightly.20260901.700"
    box.publish(version, {"schema_level": 32})
    assert bump(box)["outcome"] == "updated"
    everybody_is_well(box, {"ada": version})


NO_NAMESPACES = """
echo 0 > /proc/sys/user/max_user_namespaces || exit 9
exec setpriv --ambient-caps=-all --inh-caps=-all --bounding-set=-all "$@"
"""


def test_without_namespaces_it_binds_loopback_and_says_what_is_not_isolated(make_box: Callable[..., Sandbox]) -> None:
    """The consumer lives in a user namespace that may have no others below it, as on a host that gives none.

    From there it cannot look into the servers, which it did not start: it restarts nobody.
    """
    box = make_box(["ada", "grace"], consumer=False)
    box.prefix = ["unshare", "--user", "--map-current-user", "--keep-caps", "sh", "-c", NO_NAMESPACES, "sh"]
    box.start_consumer()
    version = "0.0.35-nightly.20260901.700"  # names its cookie by the port there
    box.publish(version, {"schema_level": 32, "rules": rule("pairing_404", {"port_not": 1, **ODD})})
    said = bump(box)
    assert said["outcome"] == "updated"
    found = verdicts(box, said["run"])["run_trials", version, "ada"]
    assert "this host supports no namespaces" in found["not_isolated"]
    evidence = {check["name"]: check["evidence"] for check in found["checks"]}
    assert "t3_session_" in evidence["exchanges"], "the server said how it names its cookie"
    assert "not isolated" in box.t3flow("show", said["run"]).stdout
    make_odd(box, "grace")
    box.publish("0.0.36-nightly.20260902.1", {"schema_level": 33, "rules": rule("mint_fails", ODD)})
    assert bump(box)["outcome"] == "gate_failed"
    assert all(box.pairs(user) for user in box.users)


ONE_CORE = ["taskset", "--cpu-list", "0"]
"""Prefix of a consumer that has two trials at a time, on any machine."""


def steps_of(box: Sandbox, run: str, step: str) -> list[list[dict[str, Any]]]:
    """Return the seeds of each call of a step of the gate in a run, as they were started."""
    events = box.document("show", run)["events"]
    return [each["data"]["args"][2] for each in events if (each["kind"], each["step"]) == ("started", step)]


def drain_of(box: Sandbox, user: str) -> str:
    """Return the only drain of a user."""
    (run,) = box.journal.runs("workflow = 'drain' and args = ?", json.dumps({"user": user}))
    return str(run.id)


def test_what_the_time_does_not_reach_is_tried_before_its_user_moves(make_box: Callable[..., Sandbox]) -> None:
    """The gate's time is over after the first two databases: the others are deferred, and the drain of each tries the version on them.

    The limit is shorter than one trial, and blocks nobody who was tried.
    """
    users = [*ALL, "ken"]
    box = make_box(users, consumer=False)
    text = box.config.read_text()
    box.config.write_text(text.replace("[gate]\n", "[gate]\nlimit_minutes = 0.01\n"))
    box.environment["T3FLOW_DEFERRAL__WINDOW"] = _closed_window()
    box.prefix = ONE_CORE
    box.start_consumer()
    make_odd(box, "linus")
    slow = {"fault": "slow_start", "seconds": 2, "when": IN_SCRATCH}
    box.publish(NEXT, {"schema_level": 32, "rules": [slow, *rule("mint_fails", {**ODD, **IN_SCRATCH})]})
    said = bump(box)
    assert said["outcome"] == "updated", said
    assert results(said) == {"ada": "restarted", "grace": "deferred", "ken": "restarted", "linus": "deferred"}
    for user in ("grace", "linus"):
        reason = said["users"][user]["reason"]
        assert "gate.limit_minutes (0.01) has passed" in reason
        assert f"to try it now: t3flow enqueue drain {user}" in reason
        assert box.assigned(user) == FIRST
    box.end("consumer")
    del box.environment["T3FLOW_DEFERRAL__WINDOW"]
    box.start_consumer()
    drained(box, "grace", NEXT, 120)
    assert [[seed["user"] for seed in seeds] for seeds in steps_of(box, drain_of(box, "grace"), "run_trials")] == [
        ["grace"]
    ]
    box.until(
        lambda: "auth pairing create" in deferrals(box)["linus"]["detail"],
        "its own trial says that it fails there",
        120,
    )
    assert box.assigned("linus") == FIRST
    write(box.database("linus"), "update projection_projects set title = 'even'")
    drained(box, "linus", NEXT, 120)
    everybody_is_well(box, dict.fromkeys(users, NEXT))


def test_a_gate_that_is_killed_is_repeated_and_leaves_nothing(make_box: Callable[..., Sandbox]) -> None:
    """The trials in flight end with the consumer, and the next one repeats the batch."""
    box = make_box(ALL)
    slow = {"fault": "slow_start", "seconds": 1.5, "when": IN_SCRATCH}
    box.publish(NEXT, {"schema_level": 32, "rules": [slow]})
    run = box.document("enqueue", "bump")["run"]
    box.until(lambda: any((box.top / "scratch").glob("*/seed-*/serve.log")), "servers of trials start", 60)
    box.kill("consumer")
    box.start_consumer()
    box.until(lambda: box.has_ended(run), "the run ends", 120)
    assert box.document("show", run)["outcome"] == "updated"
    first, again = steps_of(box, run, "run_trials")
    assert first == again
    assert list((box.top / "scratch").iterdir()) == []
    everybody_is_well(box, dict.fromkeys(ALL, NEXT))


def _closed_window() -> str:
    hour = (time.localtime().tm_hour + 12) % 24
    return f"{hour:02}:00-{hour:02}:30"


def test_a_dispatch_that_fails_before_the_canary_stops_the_bump(make_box: Callable[..., Sandbox]) -> None:
    box = make_box(["ada", "grace"])
    servers = servers_of(box)
    box.publish(NEXT, {"schema_level": 32})
    box.kill("dispatch")
    said = bump(box)
    assert (said["outcome"], said["status"]) == ("gate_inconclusive", "failed")
    assert "No user was restarted" in said["reason"]
    assert "does not answer" in said["reason"]
    nobody_was_touched(box, servers)
    assert box.document("status")["rejected"] == {}
    box.start_dispatch()
    assert bump(box)["outcome"] == "updated"


def test_a_dispatch_that_fails_while_a_user_is_verified_is_not_the_builds_fault(
    make_box: Callable[..., Sandbox],
) -> None:
    """The user is rolled back; a user who was not restarted cannot pair either, so the version is not blamed and nothing is frozen."""
    box = make_box(["ada", "grace"])
    box.publish(NEXT, {"schema_level": 32})
    run = box.document("enqueue", "bump")["run"]
    box.until(lambda: NEXT in (box.assigned("ada"), box.assigned("grace")), "somebody is led there", 60)
    box.kill("dispatch")
    box.until(lambda: box.has_ended(run), "the run ends", 90)
    shown = box.document("show", run)
    assert shown["outcome"] == "gate_inconclusive", shown["reason"]
    assert "the dispatch is at fault" in shown["reason"]
    status = box.document("status")
    assert (status["rejected"], status["frozen"], status["default_version"]) == ({}, None, FIRST)
    box.start_dispatch()
    everybody_is_well(box, dict.fromkeys(box.users, FIRST))
    assert [box.level(user) for user in box.users] == [30, 30]
    assert bump(box)["outcome"] == "updated"
    everybody_is_well(box, dict.fromkeys(box.users, NEXT))


def test_a_drain_waits_for_a_dispatch_that_fails(make_box: Callable[..., Sandbox]) -> None:
    box = make_box(["ada", "grace"])
    turn = is_busy(box, "grace")
    box.publish(NEXT, {"schema_level": 32})
    assert results(bump(box)) == {"ada": "restarted", "grace": "deferred"}
    box.kill("dispatch")
    box.control("grace", "turn/end", turn=turn)
    box.until(lambda: "cannot pair" in deferrals(box)["grace"]["detail"], "it says why it waits")
    assert box.assigned("grace") == FIRST
    box.start_dispatch()
    drained(box, "grace", NEXT)


def test_scratch_in_memory_is_refused(make_box: Callable[..., Sandbox]) -> None:
    box = make_box(["ada"], consumer=False)
    folder = Path("/dev/shm") / box.top.name
    folder.mkdir()
    try:
        box.environment["T3FLOW_PATHS__SCRATCH_DIR"] = str(folder)
        box.start_consumer()
        box.publish(NEXT, {"schema_level": 32})
        said = bump(box)
        assert (said["outcome"], said["status"]) == ("error", "failed")
        assert "is in memory" in said["reason"]
        assert "/var/tmp" in said["reason"]
        assert list(folder.iterdir()) == []
        everybody_is_well(box, {"ada": FIRST})
    finally:
        folder.rmdir()


def test_no_secret_of_a_trial_is_journaled(make_box: Callable[..., Sandbox]) -> None:
    box = make_box(["ada"])
    box.publish(NEXT, {"schema_level": 32, "rules": rule("snapshot_fails", {})})
    said = bump(box)
    text = json.dumps(box.document("show", said["run"]))
    assert "t3_session=" not in text
    assert "Bearer" not in text


def test_controls_are_held_whatever_the_time(make_box: Callable[..., Sandbox]) -> None:
    """The version fails everywhere and slowly: its fault is proven after the limit, too, or each night would end without a verdict."""
    box = make_box(ALL, consumer=False)
    box.environment["T3FLOW_GATE__LIMIT_MINUTES"] = "0.05"
    box.start_consumer()
    servers = servers_of(box)
    slow_and_bad = [*rule("slow_start", {}, seconds=4), *rule("mint_fails", {})]
    box.publish(NEXT, {"schema_level": 32, "rules": slow_and_bad})
    said = bump(box)
    assert said["outcome"] == "gate_failed", said
    status = box.document("status")
    assert (list(status["rejected"]), status["frozen"]) == ([NEXT], None)
    held = [each for (step, *_), each in verdicts(box, said["run"]).items() if step == "run_controls"]
    assert held
    assert {each["verdict"] for each in held} == {"pass"}
    nobody_was_touched(box, servers)
