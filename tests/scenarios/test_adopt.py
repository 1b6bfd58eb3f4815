"""Taking a host over from the shell tracker: no server stops, each user keeps a program that knows their database, and it can be taken back."""

from collections.abc import Callable
from typing import Any

from old_host import in_the_middle, pids, rooms, timers
from scenes import ALL, FIRST, NEXT, bump, deferrals, results, write

from t3flow.cli.base import hint
from t3flow.engine.runs import new_run
from t3flow.host import slots
from t3flow.sandbox import shell_tracker
from t3flow.sandbox.host import Sandbox
from t3flow.service.consumer import create_state_dir, open_journal


def started(make_box: Callable[..., Sandbox]) -> tuple[Sandbox, dict[str, str]]:
    box = make_box(ALL, start=False)
    return box, in_the_middle(box)


def adopt(box: Sandbox, *words: str) -> Any:
    return box.document("adopt", *words)


def test_without_a_consumer_it_says_so(make_box: Callable[..., Sandbox]) -> None:
    box = make_box(["ada"], start=False)
    said = box.t3flow("adopt")
    assert said.returncode == 4
    assert "start it with: systemctl start t3flow" in said.stderr


def test_a_host_in_the_middle_of_a_rollout(make_box: Callable[..., Sandbox]) -> None:
    """Plan, adoption with kills, repetition, drain, and the undo, refused where it would cut somebody off."""
    box, turns = started(make_box)
    box.start_consumer()
    before, servers = rooms(box), pids(box)

    plan = adopt(box, "--dry-run")
    assert (plan["outcome"], plan["target"]) == ("dry_run_passed", NEXT), plan
    assert results(plan) == {"ada": "untouched", "grace": "deferred", "linus": "deferred"}
    assert rooms(box) == before, "it changes nothing"
    assert timers(box) == [True, True]

    done = adopt(box)
    assert done["outcome"] == "done", done
    assert pids(box) == servers, "no server was stopped"
    assert timers(box) == [False, False]
    assert {user: box.assigned(user) for user in ALL} == {"ada": NEXT, "grace": NEXT, "linus": FIRST}
    assert slots.default_version(box.settings.paths.versions_dir) == NEXT
    assert {user: each["target"] for user, each in deferrals(box).items()} == {"grace": NEXT, "linus": NEXT}
    assert "drain first: t3flow enqueue drain grace" in done["reason"]
    shown = box.document("status")
    assert {user: each["running_version"] for user, each in shown["users"].items()} == {
        "ada": NEXT,
        "grace": FIRST,
        "linus": FIRST,
    }
    assert shown["users"]["grace"]["pairing"] == "failing"
    assert [box.pairs(user) for user in ALL] == [True, False, True]
    assert box.level("linus") == 30, "his pairing runs the program of his server now"
    backups = box.document("backups")
    assert [(each["user"], each["level"], each["before"]) for each in backups] == [(user, 30, NEXT) for user in ALL]

    box.settings.paths.launcher.unlink()
    shell_tracker.install(box, NEXT)
    assert "launcher" in [each["check"] for each in box.document("doctor")]
    again = adopt(box)
    assert again["outcome"] == "done"
    found = box.document("doctor")
    assert {each["check"] for each in found} == {"servers", "pairing"}, found
    assert any("linus still runs 0.0.24 from the shell tracker" in each["problem"] for each in found), found
    assert list(deferrals(box)) == ["grace", "linus"]

    for user, turn in turns.items():
        box.control(user, "turn/end", turn=turn)
    box.until(lambda: not deferrals(box), "both are drained", 60)
    assert [box.pairs(user) for user in ALL] == [True, True, True]
    assert {user: each["running_version"] for user, each in box.document("status")["users"].items()} == dict.fromkeys(
        ALL, NEXT
    )
    shell_tracker.install(box, FIRST)
    refused = adopt(box, "--undo")
    assert (refused["outcome"], "enqueue rollback" in refused["reason"]) == ("error", True), refused


def test_what_is_undone(make_box: Callable[..., Sandbox]) -> None:
    """An adoption that is refused half-way, and one that was killed at each step and is undone, leave the host as it was; no server stops."""
    box, _ = started(make_box)
    box.start_consumer()
    before, servers = rooms(box), pids(box)
    at_work = box.settings.paths.serve_env_dir / "t3-autoupdate.service"
    at_work.touch()
    assert "the shell tracker is running" in adopt(box)["reason"]
    at_work.unlink()
    write(box.database("linus"), "insert into effect_sql_migrations values (99, '2026', 'Later')")
    refused = adopt(box)
    assert (refused["outcome"], "migration 99 Later" in refused["reason"]) == ("error", True), refused
    assert rooms(box) == before
    assert timers(box) == [True, True]
    write(box.database("linus"), "delete from effect_sql_migrations where migration_id = 99")

    for undo, steps in (
        (False, ("import_install", "make_links", "take_markers", "put_launcher")),
        (True, ("restore_launcher", "drop_links", "restore_markers")),
    ):
        run = new_run(box.journal, "adopt", {"undo": undo})
        assert run is not None
        hint(box.settings, run)
        for step in steps:
            box.until(lambda run=run, step=step: any(e.step == step for e in box.journal.events(run)), step, 60)
            box.kill("consumer")
            box.start_consumer()
        box.until(lambda run=run: box.journal.run(run).status != "running", "it has ended", 60)
        assert box.journal.run(run).outcome == "done", box.journal.run(run).result
    assert rooms(box) == before
    assert timers(box) == [True, True]
    assert pids(box) == servers
    assert not deferrals(box)
    assert adopt(box, "--undo")["outcome"] == "error"
    assert "adopt" in bump(box)["reason"], "t3flow changes nothing on a host that it was taken from"


def test_a_fresh_host(make_box: Callable[..., Sandbox]) -> None:
    """No t3 and no tracker before: the tag's version for everybody, mistakes in the user map said, and no way back to a host without t3."""
    box = make_box(["ada"], start=False)
    box.start_registry()
    box.publish(FIRST, {"schema_level": 30})
    create_state_dir(box.settings.paths.state_dir)
    open_journal(box.settings, create=True)
    box.start_supervisor()
    box.start_dispatch()
    with box.settings.paths.user_map.open("a") as users:
        users.write("nobody at all\n")
    said = box.t3flow("status").stdout.splitlines()
    assert any(
        line.endswith("'nobody at all' has 0 equals signs: write PERSON=USER; see t3flow doctor") for line in said
    )
    assert "No user has a version yet; see t3flow adopt --dry-run, then run t3flow adopt" in said

    box.start_consumer()
    done = adopt(box)
    assert (done["outcome"], done["target"]) == ("done", FIRST), done
    assert any("equals signs" in notice for notice in done["notices"]), done
    box.supervise("start", "ada")
    box.await_pairing("ada")
    undone = adopt(box, "--undo")
    assert (undone["outcome"], "deploy/uninstall.sh" in undone["reason"]) == ("error", True), undone
    assert box.pairs("ada")

    users_map = box.settings.paths.user_map
    users_map.rename(users_map.with_suffix(".away"))
    said_without = box.t3flow("status")
    assert (said_without.returncode, "create it with lines PERSON=USER" in said_without.stdout) == (0, True), (
        said_without
    )
