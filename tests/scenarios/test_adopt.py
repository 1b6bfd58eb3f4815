"""Taking a host over from the shell tracker: no server stops, each user keeps a program that knows their database, and it can be taken back."""

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

from conftest import LEVEL30
from scenes import ALL, FIRST, LATER, NEXT, bump, deferrals, results

from t3flow.host import slots
from t3flow.host.old_tracker import TIMERS
from t3flow.sandbox import shell_tracker
from t3flow.sandbox.host import Sandbox

ROOMS = ("usr", "bin", "etc", "opt", "backups", "state/deferred", "state/deferred-before-t3flow", "state/last-good")


def in_the_middle(make_box: Callable[..., Sandbox]) -> Sandbox:
    """NEXT is installed over FIRST: ada was restarted onto it; grace was deferred, and her browser has migrated her database under her
    server since; linus was deferred and has not paired."""
    box = make_box(ALL, start=False)
    shell_tracker.start(box, FIRST, dict.fromkeys(ALL, LEVEL30), {"schema_level": 30})
    for user in ALL:
        old = box.settings.paths.backup_dir / user / f"state-prebump-{NEXT}-20260609T041500Z.sqlite"
        old.parent.mkdir()
        shutil.copyfile(LEVEL30, old)
    box.publish(NEXT, {"schema_level": 32})
    shell_tracker.install(box, NEXT)
    shell_tracker.accept(box, NEXT)
    shell_tracker.restart(box, "ada")
    for user in ("grace", "linus"):
        shell_tracker.mark(box, user, NEXT)
    assert not box.pairs("grace"), "the outage of the shell tracker"
    assert [box.level(user) for user in ALL] == [32, 32, 30]
    return box


def pids(box: Sandbox) -> list[int]:
    return [box.supervise("status", user)["main_pid"] for user in ALL]


def rooms(box: Sandbox) -> dict[str, Any]:
    """All that the host has of the tracker, with modes, contents and targets of links."""
    found: dict[str, Any] = {}
    for room in ROOMS:
        for path in [box.top / room, *sorted((box.top / room).rglob("*"))]:
            if path.is_symlink():
                found[str(path)] = path.readlink()
            elif path.is_file():
                found[str(path)] = path.read_bytes()
            elif path.is_dir() and any(path.iterdir()):
                found[str(path)] = path.stat().st_mode
    return found


def timers(box: Sandbox) -> list[bool]:
    return [(box.settings.paths.serve_env_dir / timer).exists() for timer in TIMERS]


def adopt(box: Sandbox, *words: str) -> Any:
    return box.document("adopt", *words)


def test_without_a_consumer_it_says_so(make_box: Callable[..., Sandbox]) -> None:
    box = make_box(["ada"], start=False)
    said = box.t3flow("adopt")
    assert said.returncode == 4
    assert "start it: systemctl start t3flow" in said.stderr


def test_a_host_in_the_middle_of_a_rollout(make_box: Callable[..., Sandbox]) -> None:
    """Plan, adoption with kills, repetition, drain, and the undo, refused where it would cut somebody off."""
    box = in_the_middle(make_box)
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
    assert "drained first: grace" in done["reason"]
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

    again = adopt(box)
    assert again["outcome"] == "done"
    assert list(deferrals(box)) == ["grace", "linus"]

    box.until(lambda: not deferrals(box), "both are drained", 60)
    assert [box.pairs(user) for user in ALL] == [True, True, True]
    assert {user: each["running_version"] for user, each in box.document("status")["users"].items()} == dict.fromkeys(
        ALL, NEXT
    )
    box.publish(LATER, {"schema_level": 33})
    moved = bump(box)
    assert results(moved) == dict.fromkeys(ALL, "restarted"), moved
    refused = adopt(box, "--undo")
    assert (refused["outcome"], "enqueue rollback" in refused["reason"]) == ("error", True), refused


def test_the_undo(make_box: Callable[..., Sandbox]) -> None:
    """Killed at each step and undone, the host is as it was, and its servers have run all the time."""
    box = in_the_middle(make_box)
    box.start_consumer()
    before, servers = rooms(box), pids(box)
    for words, steps in (
        ((), ("take_in", "make_links", "take_markers", "put_launcher")),
        (("--undo",), ("bring_back_launcher", "drop_links", "bring_back_markers")),
    ):
        from t3flow.engine.runs import new_run

        run = new_run(box.journal, "adopt", {"undo": "--undo" in words})
        assert run is not None
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


def test_what_fails_is_undone(make_box: Callable[..., Sandbox]) -> None:
    """A database of a schema that no version to be had knows refuses the whole, and nothing is left of it."""
    box = in_the_middle(make_box)
    box.start_consumer()
    shutil.copyfile(Path(__file__).parents[1] / "data" / "state-level32.sqlite", box.database("linus"))
    from scenes import write

    write(box.database("linus"), "insert into effect_sql_migrations values (99, '2026', 'Later')")
    before = rooms(box)
    refused = adopt(box)
    assert (refused["outcome"], "schema level 99" in refused["reason"]) == ("error", True), refused
    assert rooms(box) == before
    assert timers(box) == [True, True]
    box.settings.paths.serve_env_dir.joinpath("t3-autoupdate.service").touch()
    assert "is at work" in adopt(box)["reason"]
