"""The page's requests: files in a folder, carried out by the consumer as hostile input."""

import json
import os
import secrets
import time
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
from conftest import LATER, NEXT
from scenes import bump, deferrals, is_busy

from t3flow.host.records import actions
from t3flow.sandbox.host import Sandbox
from t3flow.state import actions as shown

ADMINS = '[web]\nadmins = ["ada@example.test", "root@example.test"]\n'
ADA = "ada@example.test"


def document(action: str, **fields: Any) -> dict[str, Any]:
    at = datetime.now(UTC).isoformat()
    return {"schema": 1, "id": secrets.token_hex(16), "at": at, "identity": ADA, "action": action, **fields}


def put(box: Sandbox, asked: dict[str, Any]) -> str:
    """Write a request as the page does."""
    folder = box.settings.paths.state_dir / "requests"
    partial = folder / f".{asked['id']}.tmp"
    partial.write_text(json.dumps(asked))
    partial.rename(folder / f"{asked['id']}.json")
    return str(asked["id"])


def answered(box: Sandbox, action_id: str, seconds: float = 5) -> str:
    """Return how a request ended, once its file is gone."""
    path = box.settings.paths.state_dir / "requests" / f"{action_id}.json"
    box.until(lambda: not path.exists(), "the request is answered", seconds)
    found = actions.find(box.journal, action_id)
    assert found is not None
    assert found.result is not None
    return found.result


def ask(box: Sandbox, action: str, **fields: Any) -> str:
    return answered(box, put(box, document(action, **fields)))


def test_every_action_of_the_page_is_done_and_shows_who_did_it(
    make_box: Callable[..., Sandbox], queue_url: str
) -> None:
    """As the command line does each, within a second; the history says who asked for it."""
    box = make_box(["ada", "grace"], queue_url=queue_url, extra=ADMINS)
    turn = is_busy(box, "grace")
    box.publish(NEXT, {"schema_level": 32})
    bump(box)
    assert set(deferrals(box)) == {"grace"}
    began = time.monotonic()
    assert ask(box, "freeze", reason="demo day") == "frozen"
    assert time.monotonic() - began < 2
    frozen = box.document("status")["frozen"]
    assert (frozen["reason"], frozen["by"]) == ("demo day", ADA)
    assert ask(box, "unfreeze").startswith("No longer frozen")
    assert ask(box, "hold", user="ada", reason="a talk").startswith("ada stays on their version")
    assert ask(box, "release", user="ada").startswith("ada is no longer held")
    run = ask(box, "drain", user="grace").removeprefix("started ")
    box.until(lambda: box.document("show", run)["status"] == "succeeded", "the drain ended")
    assert box.document("show", run)["asked_by"] == f"{ADA} via the page"
    assert f"by {ADA} via the page" in " ".join(box.t3flow("show", run).stdout.split())
    run = ask(box, "rollback", user="ada").removeprefix("started ")
    box.until(lambda: box.document("show", run)["status"] == "succeeded", "ada was rolled back", 60)
    assert box.document("show", run)["args"] == {"users": ["ada"], "to": None}
    assert box.document("status")["frozen"]["by"] == ADA
    assert ask(box, "cancel", run=run) == f"refused: {run} has ended already: done"
    found = [(each["action"], each["by"], each["via"]) for each in shown.recent(box.journal)]
    names = ["cancel", "rollback", "drain", "release", "hold", "unfreeze", "freeze"]
    assert found[:7] == [(name, ADA, "page") for name in names]
    assert found[7][0] == "bump", "and the command line's too"
    box.control("grace", "turn/end", turn=turn)


def test_who_may_not_act_does_nothing_and_is_recorded(box: Sandbox) -> None:
    """The consumer checks the identity itself; nobody is an admin by default."""
    assert ask(box, "freeze", identity="mallory") == "denied: mallory is not in web.admins"
    assert ask(box, "rollback", identity=ADA) == f"denied: {ADA} is not in web.admins"
    assert box.document("status")["frozen"] is None
    assert box.document("runs") == []


REFUSED = [
    ("hold", {"user": "nobody"}, "refused: 'nobody' is not in "),
    ("hold", {"user": "ada", "until": "2020-01-01"}, "refused: 2020-01-01 has passed"),
    ("hold", {"user": "ada", "until": "soon"}, "refused: 'soon' is no date"),
    ("release", {"user": "nobody"}, "refused: 'nobody' is not in "),
    ("drain", {"user": "nobody"}, "refused: 'nobody' is not in "),
    ("rollback", {"version": "x"}, "refused: "),
    ("cancel", {"run": "bump-1"}, "refused: there is no run bump-1"),
    ("freeze", {"at": "2020-01-01T00:00:00+00:00"}, "refused: it was asked more than 10 minutes ago"),
]


def test_rubbish_is_removed_and_requests_between_it_are_done(make_box: Callable[..., Sandbox]) -> None:
    """Files of every kind and content beside good requests: one log line, no trace on the host, and the good ones are done."""
    box = make_box(["ada"], extra=ADMINS)
    folder = box.settings.paths.state_dir / "requests"
    secret = box.top / "secret"
    secret.write_text(json.dumps(document("freeze")))

    def name() -> Path:
        return folder / f"{secrets.token_hex(16)}.json"

    def written(text: str | bytes) -> None:
        name().write_bytes(text if isinstance(text, bytes) else text.encode())

    name().symlink_to(secret)
    os.link(secret, name())
    os.mkfifo(name())
    name().mkdir()
    with name().open("wb") as file:
        file.truncate(2**40)
    for text in ("", "{", "[" * 4000, "null", "[]", b"\xff\xfe", "1" * 4096, '{"schema": 1}', '{"id": NaN}'):
        written(text)
    for fields in (
        {"schema": 2},
        {"schema": True, "action": 1},
        {"action": "consumer"},
        {"identity": ""},
        {"identity": "a" * 300},
        {"identity": "ada@example.test\nroot"},
        {"identity": ["ada@example.test"]},
        {"reason": {"a": 1}},
        {"reason": "x" * 501},
        {"reason": "\u202eevil"},
        {"user": "ada"},
        {"at": "now"},
        {"at": None},
    ):
        put(box, {**document("freeze"), **fields})
    other = document("freeze")
    (folder / f"{secrets.token_hex(16)}.json").write_text(json.dumps(other))  # its name is not its id
    put(box, document("hold"))
    put(box, document("cancel", user="ada"))
    for number in range(1200):
        (folder / f"rubbish-{number}").write_text("x")
    (folder / f".{'0' * 32}.tmp").write_text("")
    os.utime(folder / f".{'0' * 32}.tmp", (1, 1))
    half = folder / f".{'1' * 32}.tmp"
    half.write_text("half")
    for action, fields, words in REFUSED:
        result = answered(box, put(box, document(action, **fields)), 20)
        assert result.startswith(words), (action, result)
    box.until(lambda: [path.name for path in folder.iterdir()] == [half.name], "only what is being written is left", 20)
    assert ask(box, "freeze", reason="it still works") == "frozen"
    log = (box.top / "log/consumer.log").read_text()
    assert log.count("was removed: ") == 1
    assert "Traceback" not in log
    assert secret.exists()
    found = shown.recent(box.journal)
    assert len(found) == len(REFUSED) + 1, found


def test_a_flood_of_denied_requests_leaves_a_short_record(make_box: Callable[..., Sandbox]) -> None:
    box = make_box(["ada"], extra=ADMINS)
    for _ in range(60):
        last = put(box, document("freeze", identity="mallory"))
    path = box.settings.paths.state_dir / "requests" / f"{last}.json"
    box.until(lambda: not path.exists(), "all were looked at", 20)
    assert len(shown.recent(box.journal)) == 20
    (box.top / "etc").chmod(0o555)
    assert ask(box, "freeze").endswith("Permission denied"), "a host that does not let it freeze"
    (box.top / "etc").chmod(0o755)
    assert ask(box, "freeze") == "frozen"


@pytest.mark.parametrize("action", ["freeze", "rollback", "drain", "hold"])
def test_killed_between_doing_and_recording(make_box: Callable[..., Sandbox], action: str) -> None:
    """The consumer dies after the deed and before its record: the next one completes the record and does nothing twice."""
    box = make_box(["ada"], extra=ADMINS)
    box.end("consumer")
    fields = {"hold": {"user": "ada"}, "rollback": {"user": "ada"}}.get(action, {})
    asked = document(action, **fields)
    put(box, asked)
    died(box, "finish")
    [entry] = shown.recent(box.journal)
    assert (entry["action"], entry["result"]) == (action, None)
    before = [run["run"] for run in box.document("runs")]
    box.start_consumer()
    result = answered(box, str(asked["id"]), 10)
    assert not result.startswith("refused"), result
    assert [run["run"] for run in box.document("runs") if run["workflow"] in ("rollback", "drain_now")] == before
    assert len(shown.recent(box.journal)) == 1


def died(box: Sandbox, at: str) -> None:
    """Run a consumer that kills itself when it is about to complete the record of an action."""
    script = box.top / "dying.py"
    script.write_text(
        "import os, signal, sys\n"
        "from t3flow.host.records import actions\n"
        f"def {at}(*args):\n    os.kill(os.getpid(), signal.SIGKILL)\n"
        f"actions.{at} = {at}\n"
        "from t3flow.cli import main\n"
        "sys.argv = ['t3flow', 'consumer']\n"
        "main()\n"
    )
    import subprocess
    import sys

    with (box.top / "log/dying.log").open("ab") as log:
        done = subprocess.run(
            [sys.executable, str(script)], env=box.environment, stdout=log, stderr=log, timeout=60, check=False
        )
    assert done.returncode == -9, (box.top / "log/dying.log").read_text()[-2000:]


def test_a_repeat_after_a_kill_respects_what_a_person_did_since(make_box: Callable[..., Sandbox]) -> None:
    """Frozen by the page, killed before the record, resumed by an operator: the next consumer does not freeze again."""
    box = make_box(["ada"], extra=ADMINS)
    box.end("consumer")
    asked = put(box, document("freeze", reason="by the page"))
    died(box, "finish")
    assert box.document("status")["frozen"]["reason"] == "by the page"
    assert box.t3flow("unfreeze").returncode == 0
    box.start_consumer()
    assert answered(box, asked).startswith("refused: not repeated after a kill: ")
    assert box.document("status")["frozen"] is None


def test_the_command_lines_actions_are_recorded_with_the_person(make_box: Callable[..., Sandbox]) -> None:
    box = make_box(["ada", "grace"])
    turn = is_busy(box, "grace")
    box.publish(NEXT, {"schema_level": 32})
    bump(box)
    box.publish(LATER, {"schema_level": 32})
    for words in (
        ["freeze", "--reason", "x"],
        ["unfreeze"],
        ["pin", LATER],
        ["unpin"],
        ["deferrals", "revoke", "grace"],
        ["deferrals", "restore", "grace"],
        ["enqueue", "drain", "--dry-run", "--wait"],
    ):
        assert box.t3flow(*words).returncode == 0, words
    assert box.t3flow("deferrals", "revoke", "ada").returncode == 2
    found = [(each["action"], each["arguments"], each["via"]) for each in reversed(shown.recent(box.journal))]
    assert found == [
        ("bump", {}, "cli"),
        ("freeze", {"reason": "x"}, "cli"),
        ("unfreeze", {}, "cli"),
        ("pin", {"version": LATER}, "cli"),
        ("unpin", {}, "cli"),
        ("deferrals revoke", {"user": "grace"}, "cli"),
        ("deferrals restore", {"user": "grace"}, "cli"),
        ("drain", {"dry_run": True}, "cli"),
        ("deferrals revoke", {"user": "ada"}, "cli"),
    ]
    last = shown.recent(box.journal)[0]
    assert str(last["result"]).startswith("refused: 'ada' has no pending deferral")
    box.control("grace", "turn/end", turn=turn)


def test_records_are_bounded(make_box: Callable[..., Sandbox]) -> None:
    """What one door or one user did a thousand times does not push out another's; old records go."""
    box = make_box(["ada"], start=False)
    from t3flow.service.consumer import create_state_dir, open_journal

    create_state_dir(box.settings.paths.state_dir)
    journal = open_journal(box.settings, create=True)
    actions.begin(journal, "first", actions.Actor(actions.CLI, "ada"), "freeze", {}, "")
    actions.finish(journal, "first", "frozen")
    with journal.transaction() as connection:
        for via, by, result in (("page", "x", "done"), ("page", "x", "denied: x"), ("user", "u", "done")):
            rows = [(f"{via}{result}{number}", time.time() + number, via, by, result) for number in range(1100)]
            connection.executemany("insert into actions values (?, ?, ?, ?, 'freeze', '{}', '', ?)", rows)
    actions.delete_old(journal, 90)
    counts = dict(journal.query("select via, count(*) from actions group by via"))
    assert counts == {"cli": 1, "page": counts["page"], "user": actions.MOST_OF_A_USER}
    assert counts["page"] <= actions.MOST
    actions.delete_old(journal, 0)
    assert actions.find(journal, "first") is None
