"""Messages of a real consumer to real receivers: once for each occasion, within two seconds, whatever hangs or is killed."""

import json
import random
import time
from collections.abc import Callable, Iterator
from datetime import datetime
from pathlib import Path
from typing import Any

import pytest
from receiver import Receiver, hang, receiving, status
from scenes import NEXT, bump

from t3flow.cli.base import hint
from t3flow.engine.runs import new_run
from t3flow.host.records import outbox
from t3flow.sandbox.host import Sandbox

BAD = [{"fault": "pairing_500", "when": {"not_scratch": True}}]
"""A build that passes the gate and cannot pair in use."""
TOKEN = "a-token-that-nobody-may-see"
LONGEST_SECONDS = 5.0
"""From a failure to its message, on a loaded machine. Measured: see docs/monitoring.md."""


@pytest.fixture
def receiver() -> Iterator[Receiver]:
    with receiving() as made:
        yield made


def settings_for(receiver: Receiver, **more: Any) -> str:
    given = {"webhook_url": f"{receiver.url}/hook/{TOKEN}", "ping_url": f"{receiver.url}/ping/{TOKEN}", **more}
    return "[notify]\n" + "".join(f"{key} = {json.dumps(value)}\n" for key, value in given.items())


def outbox_is_empty(box: Sandbox) -> bool:
    journal = box.journal
    return not outbox.waiting(journal) and not outbox.news(journal)


def scheduled_bump(box: Sandbox) -> str:
    """Start a bump as the schedule does."""
    run = new_run(box.journal, "bump", {"due": time.time()})
    assert run is not None
    hint(box.settings, run)
    return run


def problem(box: Sandbox, key: str) -> dict[str, Any] | None:
    return next((each for each in box.document("status")["problems"] if each["key"] == key), None)


def test_a_rollback_is_told_once_and_at_once(
    make_box: Callable[..., Sandbox], receiver: Receiver, record_property: Any
) -> None:
    """One message for the run and its freeze; then one that tracking is no longer frozen, one for an update, none for a night without news."""
    box = make_box(["ada", "grace"], extra=settings_for(receiver))
    box.publish(NEXT, {"schema_level": 32, "rules": BAD})

    said = bump(box)

    assert said["outcome"] == "rolled_back"
    receiver.until(lambda: receiver.of("/hook"))
    ended = next(event["at"] for event in box.document("show", said["run"])["events"] if event["kind"] == "ended")
    took = receiver.of("/hook")[0].at - datetime.fromisoformat(ended).timestamp()
    print(f"from the journaled failure to the message: {took:.3f} s")
    record_property("seconds to the first message", f"{took:.3f}")
    assert took < LONGEST_SECONDS
    [message] = receiver.documents()
    assert message["occasions"] == ["rolled_back", "frozen"]
    assert message["run"] == said
    assert (message["key"], message["schema"]) == (said["run"], 1)
    assert "t3flow unfreeze" in message["commands"]
    assert f"t3flow show {said['run']}" in message["commands"]
    assert f"Frozen by {said['run'].split('-')[0]}" in message["text"]

    assert box.t3flow("enqueue", "bump", "--wait").returncode == 3
    assert box.t3flow("unfreeze").returncode == 0
    receiver.until(lambda: len(receiver.documents()) == 2)
    assert receiver.documents()[1]["occasions"] == ["recovered"]
    later = "0.0.25-nightly.20260610.502"
    box.publish(later, {"schema_level": 32})
    assert bump(box)["outcome"] == "updated"
    receiver.until(lambda: len(receiver.documents()) == 3)
    assert receiver.documents()[2]["occasions"] == ["updated"]
    assert "Restarted: ada, grace" in receiver.documents()[2]["text"]

    run = scheduled_bump(box)
    box.until(lambda: box.journal.run(run).status != "running", "the quiet night is over")
    assert box.journal.run(run).outcome == "up_to_date"
    receiver.until(lambda: [each for each in receiver.of("/ping") if "rid=" in each.path and "/start" not in each.path])
    box.until(lambda: outbox_is_empty(box), "nothing waits")
    assert len(receiver.of("/hook")) == 3, "each was sent once, and an up-to-date night is only pinged"
    log = (box.top / "log" / "consumer.log").read_text()
    shown = [box.t3flow("status").stdout, json.dumps(box.document("status")), box.t3flow("config", "show").stdout, log]
    shown += ["\n".join(str(row) for table in ("facts", "outbox", "channels", "alerts", "events", "runs")
                        for row in box.journal.query(f"select * from {table}"))]  # fmt: skip
    assert not [text for text in shown if TOKEN in text]


def test_a_night_that_fails_is_pinged_as_failed_until_one_is_well(
    make_box: Callable[..., Sandbox], receiver: Receiver
) -> None:
    """Start and fail have one run id; the heartbeats of a new consumer say fail too; repeats are no message; the end of the trouble is one."""
    box = make_box(["ada"], extra=settings_for(receiver))
    receiver.until(lambda: receiver.of("/ping"))
    assert receiver.of("/ping")[0].path == f"/ping/{TOKEN}", "the first heartbeat: all is well"
    registry = box.processes["registry_server"]
    registry.terminate()
    registry.wait()
    del box.processes["registry_server"]

    first = scheduled_bump(box)
    box.until(lambda: box.journal.run(first).status != "running", "the first night is over", 60)
    receiver.until(lambda: [each for each in receiver.of("/ping") if "/fail?" in each.path])
    begun = [each.path for each in receiver.of("/ping") if "/start?rid=" in each.path]
    failed = next(each for each in receiver.of("/ping") if "/fail?rid=" in each.path)
    rids = [path.partition("rid=")[2] for path in (*begun, failed.path)]
    assert len(rids) == 2
    assert len(set(rids)) == 1
    assert "registry_unreachable" in failed.body.decode()
    assert len(failed.body.decode().splitlines()) > 1, "with the last lines of its log"
    receiver.until(lambda: receiver.of("/hook"))
    second = scheduled_bump(box)
    box.until(lambda: box.journal.run(second).status != "running", "the second night is over", 60)
    with box.journal.transaction() as connection:
        connection.execute("update channels set next_beat = null")
    receiver.until(lambda: receiver.of("/ping")[-1].path == f"/ping/{TOKEN}/fail")
    [message] = receiver.documents()
    assert message["occasions"] == ["failed"]

    box.start_registry()
    box.end("consumer")
    box.start_consumer()
    third = scheduled_bump(box)
    box.until(lambda: box.journal.run(third).status != "running", "the third night is over", 60)
    receiver.until(lambda: len(receiver.documents()) == 2)
    assert box.journal.run(third).outcome == "up_to_date"
    assert receiver.documents()[1]["occasions"] == ["recovered"]
    receiver.until(lambda: receiver.of("/ping")[-1].path.startswith(f"/ping/{TOKEN}?rid="))


def test_a_touched_freeze_file_is_told(make_box: Callable[..., Sandbox], receiver: Receiver) -> None:
    box = make_box([], extra=settings_for(receiver))
    freeze_file = box.top / "etc" / "t3-autoupdate.freeze"
    freeze_file.touch()
    receiver.until(lambda: receiver.documents())
    assert receiver.documents()[0]["occasions"] == ["frozen"]
    assert receiver.documents()[0]["commands"] == ["t3flow unfreeze"]
    box.end("consumer")
    box.start_consumer()
    freeze_file.unlink()
    receiver.until(lambda: len(receiver.documents()) == 2)
    assert receiver.documents()[1]["occasions"] == ["recovered"]
    box.until(lambda: outbox_is_empty(box), "nothing waits")
    assert len(receiver.of("/hook")) == 2


def test_a_receiver_that_hangs_delays_nothing(make_box: Callable[..., Sandbox], receiver: Receiver) -> None:
    """The ping hangs: messages arrive, the consumer ends in time; and status says what fails until it is repaired."""
    with receiving(hang) as hanging:
        box = make_box([], extra=settings_for(receiver, ping_url=f"{hanging.url}/ping/{TOKEN}"))
        hanging.until(lambda: hanging.requests)
        box.t3flow("freeze", "--reason", "demo day")
        receiver.until(lambda: receiver.documents(), 5)
        began = time.monotonic()
        assert box.end("consumer") == 0
        assert time.monotonic() - began < 9, "less than the time limit of a send"
        box.start_consumer()
        box.until(lambda: problem(box, "notify_failed"), "status names the channel", 40)
        found = problem(box, "notify_failed")
        assert found is not None
        assert f"notify.ping_url ({hanging.url}/***)" in found["text"]
        assert found["remedy"].endswith("t3flow notify test")
        assert TOKEN not in json.dumps(found)
        hanging.answer = status(200)
        tested = box.t3flow("notify", "test")
        assert tested.returncode == 0, tested
        assert TOKEN not in tested.stdout
        assert problem(box, "notify_failed") is None
        assert hanging.requests[-1].path == f"/ping/{TOKEN}/log"


def test_notify_test_reports_each_channel_without_a_consumer(tmp_path: Path, make_box: Callable[..., Sandbox]) -> None:
    with receiving() as good, receiving(status(404)) as bad:
        box = make_box(
            [], consumer=False, extra=settings_for(good, ping_url=f"{bad.url}/{TOKEN}", urls=[f"json://127.0.0.1:{good.port}/a/{TOKEN}"])
        )  # fmt: skip
        tested = box.t3flow("notify", "test", "--json")
    assert tested.returncode == 1
    found = json.loads(tested.stdout)
    assert [(each["channel"], each["ok"]) for each in found] == [("ping", False), ("webhook", True), ("urls 1", True)]
    assert found[0]["reason"] == "answered 404 (not found: the URL may be wrong or was revoked)"
    assert TOKEN not in tested.stdout + tested.stderr
    assert good.of("/a/")[0].document["title"] == good.of("/hook")[0].document["title"]
    none = make_box([], consumer=False)
    missing = none.t3flow("notify", "test")
    assert missing.returncode == 2
    assert missing.stderr.startswith("t3flow: no channel is configured")
    with receiving() as secret:
        own = dict(none.environment)
        none.environment["T3FLOW_NOTIFY__WEBHOOK_URL"] = f"{secret.url}/{TOKEN}"
        none.start_consumer()
        none.environment = own
        none.until(lambda: none.t3flow("notify", "test").returncode == 0, "the channel of the consumer's environment")
        assert secret.of(f"/{TOKEN}")


def failed_rollback(box: Sandbox) -> str:
    """Start a run that ends at once with a message."""
    run = new_run(box.journal, "rollback", {"users": [], "to": "9.9.9"}, priority=10)
    assert run is not None
    hint(box.settings, run)
    return run


def test_a_consumer_killed_again_and_again_loses_no_message(
    make_box: Callable[..., Sandbox], receiver: Receiver
) -> None:
    """Kill -9 while a send is under way, then at random moments after the end of a run: each run has one key."""
    box = make_box([], extra=settings_for(receiver, ping_url=""))
    receiver.answer = hang
    runs = [failed_rollback(box)]
    receiver.until(lambda: receiver.of("/hook"))
    box.kill("consumer")
    receiver.answer = status(200)
    box.start_consumer()
    receiver.until(lambda: len(receiver.of("/hook")) == 2)
    assert [each.key for each in receiver.of("/hook")] == [runs[0]] * 2, "sent again, with the same key"
    dice = random.Random(7)
    for _ in range(5):
        runs.append(failed_rollback(box))
        box.until(lambda: box.journal.run(runs[-1]).status != "running", "it has ended")
        time.sleep(dice.uniform(0, 0.5))
        box.kill("consumer")
        box.start_consumer()
    receiver.until(lambda: {each.key for each in receiver.of("/hook")} == set(runs))
    box.until(lambda: outbox_is_empty(box), "nothing waits")
    assert len(receiver.of("/hook")) <= 2 * len(runs)
    assert {each["key"] for each in receiver.documents()} == set(runs)
