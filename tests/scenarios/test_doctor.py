"""The doctor finds nothing on a sound host, and each fault with its remedy for as long as the fault lasts."""

import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import pytest
from conftest import RedisServer
from redis import Redis
from scenes import FIRST, NEXT, bump, write

from t3flow.engine.journal import append_event
from t3flow.engine.queue import open_queue, queue_key
from t3flow.engine.runs import new_run
from t3flow.engine.storages import CONSUMERS
from t3flow.host import freeze, slots
from t3flow.host.backups import replaced as replaced_databases
from t3flow.host.host import Host, open_host
from t3flow.host.pairing import last_pairings
from t3flow.host.processes import proc
from t3flow.host.records import catalog, deferral_records, facts, rejections
from t3flow.sandbox.environment import environment_of
from t3flow.sandbox.host import Sandbox
from t3flow.service.consumer import open_journal
from t3flow.state.doctor import CHECKS, Finding, examine

USERS = ["ada", "grace"]


@contextmanager
def moved(path: Path) -> Iterator[None]:
    """Move a file away for a while."""
    aside = path.with_name(f"{path.name}.aside")
    path.rename(aside)
    yield
    with suppress(FileNotFoundError):
        path.unlink()
    aside.rename(path)


@contextmanager
def mode(path: Path, bits: int) -> Iterator[None]:
    """Change a mode for a while."""
    before = path.stat().st_mode
    path.chmod(bits)
    yield
    path.chmod(before)


@contextmanager
def there(path: Path, text: str = "") -> Iterator[None]:
    """Create a file for a while."""
    made = not path.parent.exists()
    path.parent.mkdir(exist_ok=True)
    path.write_text(text)
    yield
    shutil.rmtree(path.parent) if made else path.unlink()


@contextmanager
def time_zone(name: str) -> Iterator[None]:
    """Set TZ for a while."""
    before = os.environ.get("TZ")
    os.environ["TZ"] = name
    yield
    os.environ.pop("TZ") if before is None else os.environ.update(TZ=before)


@contextmanager
def replaced(path: Path, text: str) -> Iterator[None]:
    """Replace the content of a file for a while."""
    before, bits = path.read_bytes(), path.stat().st_mode
    path.write_text(text)
    yield
    path.write_bytes(before)
    path.chmod(bits)


@contextmanager
def linked(link: Path, target: str) -> Iterator[None]:
    """Point a link elsewhere for a while."""
    before = os.readlink(link)
    link.unlink()
    link.symlink_to(target)
    yield
    link.unlink()
    link.symlink_to(before)


@contextmanager
def suspended(box: Sandbox, user: str) -> Iterator[None]:
    """Suspend a server for a while."""
    pid = box.supervise("status", user)["main_pid"]
    os.kill(pid, signal.SIGSTOP)
    box.until(lambda: proc.is_suspended(pid), "it is suspended")
    yield
    os.kill(pid, signal.SIGCONT)


@contextmanager
def not_paired(host: Host, user: str) -> Iterator[None]:
    """Record a failed pairing for a while."""
    last_pairings.note_pairing(host.journal, user, "no")
    yield
    last_pairings.note_pairing(host.journal, user, "")


@contextmanager
def recorded_as_replaced(host: Host, user: str, name: str) -> Iterator[None]:
    """Record a replaced database that does not exist."""
    replaced_databases.note(host.journal, user, name, FIRST)
    yield
    replaced_databases.forget(host.journal, user, name)


@contextmanager
def frozen(host: Host) -> Iterator[None]:
    freeze.freeze(host.settings, host.journal, "a test")
    yield
    freeze.unfreeze(host.settings, host.journal)


@contextmanager
def from_the_future(host: Host, run: str) -> Iterator[None]:
    """Date an event in the future, as a clock that was set back does."""
    with host.journal.transaction() as connection:
        seq = append_event(connection, run, "waiting").seq
        connection.execute("update events set at = ? where run = ? and seq = ?", (time.time() + 900, run, seq))
    yield
    with host.journal.transaction() as connection:
        connection.execute("delete from events where run = ? and seq = ?", (run, seq))


@contextmanager
def row(host: Host, insert: str, delete: str) -> Iterator[None]:
    """Add an invalid row to the journal for a while."""
    for statement in (insert, delete):
        with host.journal.transaction() as connection:
            connection.execute(statement)
        if statement is insert:
            yield


@contextmanager
def later_schema(box: Sandbox, user: str) -> Iterator[None]:
    write(box.database(user), "insert into effect_sql_migrations values (99, '2026', 'Later')")
    yield
    write(box.database(user), "delete from effect_sql_migrations where migration_id = 99")


@contextmanager
def another_environment(host: Host, **changed: str) -> Iterator[None]:
    with environment_of({**os.environ, **changed}):
        yield


@contextmanager
def no_consumer(box: Sandbox) -> Iterator[None]:
    box.kill("consumer")
    yield
    box.start_consumer()


@contextmanager
def never_verified(host: Host, user: str) -> Iterator[None]:
    """Let a user's pairing be unverified since the consumer started, long ago."""
    consumer = facts.read(host.journal, "consumer")
    facts.write(host.journal, "consumer", {**consumer, "since": 0})
    with host.journal.transaction() as connection:
        connection.execute("update pairing_checks set at = 1 where user = ?", (user,))
    yield
    facts.write(host.journal, "consumer", consumer)
    last_pairings.note_pairing(host.journal, user, "")


def faults(box: Sandbox, host: Host) -> list[tuple[str, object, str]]:
    """Return (check, fault, part of the finding)."""
    paths, top = host.settings.paths, box.top
    slot = slots.slot_path(paths.versions_dir, NEXT)
    link = slots.user_link(paths.versions_dir, "ada")
    run = str(host.journal.runs("workflow = 'bump'")[0].id)
    snapshot = Path(catalog.backups(host.journal, "ada")[-1].path)
    env = paths.serve_env_dir
    name = time.strftime("replaced-%Y%m%dT%H%M%SZ", time.gmtime())
    # waiting_for=window: the consumer has nothing to do if it looks meanwhile.
    drain = (
        f"insert into deferrals (user, run, target, since, waiting_for) values ('ada', 'gone', '{NEXT}', 0, 'window')"
    )
    return [
        ("npm", replaced(top / "tools/npm", "#!/bin/sh\nexit 3\n"), "npm --version"),
        ("npm", another_environment(host, PATH="/nonexistent"), "npm is not on PATH"),
        ("node", another_environment(host, PATH="/nonexistent"), "no node on PATH"),
        ("node", linked(slot / ".node", "/bin/true"), "with another Node"),
        ("node", linked(slot / ".node", "/nonexistent"), "is missing, so t3 cannot start"),
        ("cells", another_environment(host, PATH="/nonexistent"), "not isolated"),
        ("dispatch log", moved(top / "log/dispatch.log"), "cannot read"),
        ("clock", from_the_future(host, run), "ahead of the clock"),
        ("accounts", replaced(paths.user_map, "ada@example.test=ada\nx=root\n"), "root"),
        ("accounts", moved(env / "ada.env"), "ada.env"),
        ("accounts", replaced(env / "ada.env", f"T3_PORT={box.ports['grace']}\n"), "same port"),
        ("modes", mode(paths.state_dir / "queue.key", 0o644), "instead of 600"),
        ("modes", mode(paths.versions_dir, 0o777), "can be written by others"),
        ("modes", mode(box.config, 0o666), "config.toml can be written"),
        ("disk", moved(paths.scratch_dir), "does not exist"),
        ("schedule", time_zone("Mars"), "TZ=Mars is not a time zone"),
        ("leftovers", there(paths.scratch_dir / "t3flow-bump-20260101T000000-abcdef/x"), "left over"),
        ("launcher", replaced(paths.launcher, "#!/usr/bin/env node\n"), "overwritten"),
        ("launcher", moved(paths.launcher), "is missing"),
        ("launcher", mode(paths.launcher, 0o777), "was changed"),
        ("default", replaced(paths.last_good_file, f"{FIRST}\n"), "last-good says"),
        ("slots", moved(slot / ".t3flow.json"), "is incomplete"),
        ("slots", mode(slot / "node_modules", 0o777), "written by others"),
        ("links", moved(link), "has no assignment"),
        ("links", linked(link, "../hold"), "did not finish"),
        ("links", linked(link, "/usr"), "does not lead to a complete slot"),
        ("links", not_paired(host, "ada"), "was rejected"),
        ("servers", suspended(box, "ada"), "is suspended"),
        ("servers", linked(link, f"../versions/{FIRST}"), f"but {FIRST} is assigned"),
        ("schema", later_schema(box, "ada"), "migration 99 Later"),
        ("schema", replaced(box.database("grace"), "rubbish"), "cannot be read"),
        ("pairing", moved(paths.launcher), "cannot pair"),
        ("backups", moved(snapshot), "is missing"),
        ("replaced databases", recorded_as_replaced(host, "ada", name), "is missing before its 14 days"),
        ("shell tracker", there(env / "t3-autoupdate.timer"), "is enabled"),
        ("shell tracker", there(paths.last_good_file.parent / "deferred/ada", NEXT), "has marked ada"),
        ("freeze", frozen(host), "FROZEN"),
        (
            "lease",
            row(host, f"insert into locks values ('host', '{run}', 0)", "delete from locks"),
            "still has the lease of the host",
        ),
        (
            "messages",
            row(
                host,
                "insert into channels (name, shown, failing_since, cause) values ('webhook', 'notify.webhook_url', 1, 'answered 404')",
                "delete from channels",
            ),
            "messages to notify.webhook_url fail: answered 404",
        ),
        ("hourly verify", never_verified(host, "ada"), "The pairing of ada is verified every 60 min, but was not"),
        ("consumer", no_consumer(box), "no consumer runs"),
        ("deferrals", row(host, drain, "delete from deferrals"), "has no drain"),
    ]


def test_each_finding_comes_and_goes(make_box: Callable[..., Sandbox], monkeypatch: pytest.MonkeyPatch) -> None:
    """Each check reports its fault with a remedy, and nothing before and after the fault."""
    box = make_box(USERS)
    box.publish(NEXT, {"schema_level": 32})
    assert bump(box)["outcome"] == "updated"
    said = box.t3flow("doctor")
    assert (said.returncode, said.stdout) == (0, f"{len(CHECKS)} checks, no finding\n"), said
    for name in ("PATH", "HOME"):
        monkeypatch.setenv(name, box.environment[name])
    host = open_host(box.settings, box.journal)
    rejections.reject(host.journal, NEXT, "for the test", [])
    cases = faults(box, host)
    for check, fault, words in cases:
        assert examine(host, [check]) == [], check
        with fault:  # type: ignore[attr-defined]
            found = examine(host, [check])
            assert any(words in each.problem for each in found), (check, words, found)
            assert all(each.check == check and each.remedy and "\n" not in each.problem for each in found), found
        assert examine(host, [check]) == [], check
    elsewhere = {"systemd", "dispatch", "queue", "root", "fleet"}
    assert set(CHECKS) - {check for check, _, _ in cases} == elsewhere, "tested below, and in tests/fleet"
    seen_by_root(box)

    rejections.unreject(host.journal, NEXT)
    box.kill("dispatch")
    found = [Finding(**each) for each in box.document("doctor")]
    assert {each.check for each in found} >= {"dispatch", "pairing"}
    assert box.t3flow("doctor").returncode == 1
    box.start_dispatch()
    assert box.document("doctor") == []


def test_a_waiting_message_is_no_finding(bare_box: Sandbox) -> None:
    """The doctor, which registers no tasks, neither drops a hint of t3flow as foreign nor takes it from the queue."""
    box = bare_box
    host = open_host(box.settings, open_journal(box.settings, create=True))
    queue = open_queue(host.settings.queue.url, queue_key(host.settings.paths.state_dir / "queue.key"))
    queue.register(lambda _: None, ())
    queue.send("bump-x")
    said = box.t3flow("doctor")
    assert "dropped" not in said.stderr
    assert queue.pending_count() == 1


def test_one_cause_is_reported_once(bare_box: Sandbox) -> None:
    """Without a user map many checks fail; the doctor reports one finding."""
    bare_box.settings.paths.user_map.unlink()
    found = examine(open_host(bare_box.settings, open_journal(bare_box.settings, create=True)))
    assert sum("the check failed" in each.problem for each in found) == 1, found


def seen_by_root(box: Sandbox) -> None:
    """In a user namespace that maps this account to root, the users' servers run as root."""
    code = (
        "from t3flow.state.doctor import examine; from t3flow.host.host import open_host; import sys, pathlib;"
        "from t3flow.settings import load; from t3flow.service.consumer import open_journal;"
        "read = load.load(pathlib.Path(sys.argv[1]), {}); host = open_host(read, open_journal(read));"
        "print(*(each.problem for each in examine(host, ['root'])), sep='\\n')"
    )
    for words, findings in ((["unshare", "--user", "--map-root-user"], 2), ([], 0)):
        command = [*words, sys.executable, "-c", code, str(box.config)]
        said = subprocess.run(command, env=box.environment, capture_output=True, text=True, check=True).stdout
        assert said.count("as root") == findings, said


def test_a_host_without_systemd(bare_box: Sandbox) -> None:
    if Path("/run/systemd/system").is_dir():
        pytest.skip("this host has systemd")
    bare_box.config.write_text(bare_box.config.read_text().replace('backend = "process"', 'backend = "systemd"'))
    [found] = examine(open_host(bare_box.settings, open_journal(bare_box.settings, create=True)), ["systemd"])
    assert "not booted with systemd" in found.problem


def test_a_clock_that_is_not_synchronized(bare_box: Sandbox, monkeypatch: pytest.MonkeyPatch) -> None:
    """With systemd, `timedatectl` decides; a missing program or an empty answer is no finding."""
    bare_box.config.write_text(bare_box.config.read_text().replace('backend = "process"', 'backend = "systemd"'))
    host = open_host(bare_box.settings, open_journal(bare_box.settings, create=True))
    program = bare_box.top / "tools/timedatectl"
    monkeypatch.setenv("PATH", bare_box.environment["PATH"])
    for said, findings in (("no", ["the clock is not synchronized"]), ("yes", []), ("", [])):
        program.write_text(f"#!/bin/sh\n[ \"$*\" = 'show --property=NTPSynchronized --value' ] && echo {said}\n")
        program.chmod(0o755)
        assert [each.problem for each in examine(host, ["clock"])] == findings
    program.unlink()
    monkeypatch.setenv("PATH", str(program.parent))
    assert examine(host, ["clock"]) == []


def test_a_drain_that_is_late(bare_box: Sandbox) -> None:
    """A drain that is more than ten minutes overdue is late; one that is due, blocked or running is not."""
    host = open_host(bare_box.settings, open_journal(bare_box.settings, create=True))
    run = new_run(host.journal, "drain", {"user": "ada"}, wake_at=time.time() - 700)
    assert run is not None
    deferral_records.put_deferral(host.journal, "ada", run, NEXT, "window", time.time())
    [found] = examine(host, ["deferrals"])
    assert (found.problem, found.remedy) == ("the drain of ada is 12 minutes late", "systemctl restart t3flow")
    for change in (
        "wake_at = wake_at + 300",
        "wake_at = wake_at - 300, held = 'frozen'",
        "held = null, wake_at = null",
    ):
        with host.journal.transaction() as connection:
            connection.execute(f"update runs set {change}")
        assert examine(host, ["deferrals"]) == [], change


def test_without_a_journal(make_box: Callable[..., Sandbox]) -> None:
    box = make_box(["ada"], start=False)
    [found] = box.document("doctor")
    assert (found["check"], "no journal" in found["problem"]) == ("journal", True)


@pytest.mark.parametrize(
    ("url", "words"),
    [
        ("redis://127.0.0.1:1/0", "no password"),
        ("redis://:secret@redis.example:6379/0", "is not encrypted"),
        ("rediss://:secret@127.0.0.1:1/0", "127.0.0.1:1 is not running"),
        ("unix:///{top}/open.sock", "every account can write"),
    ],
)
def test_how_open_the_queue_is(bare_box: Sandbox, url: str, words: str) -> None:
    (bare_box.top / "open.sock").touch(mode=0o666)
    (bare_box.top / "open.sock").chmod(0o666)
    bare_box.top.chmod(0o755)
    text = bare_box.config.read_text().replace(f"sqlite://{bare_box.top}/state/queue.db", url.format(top=bare_box.top))
    bare_box.config.write_text(text)
    found = examine(open_host(bare_box.settings, open_journal(bare_box.settings, create=True)), ["queue"])
    assert any(words in each.problem for each in found), found
    assert "secret" not in str(found)


def test_a_queue_that_others_use_is_seen(make_box: Callable[..., Sandbox], redis_server: RedisServer) -> None:
    """A clone of the machine that takes messages from this queue is reported; another host on the same Redis is not."""
    box = make_box(["ada"], queue_url=redis_server.url)
    said = lambda: [each["problem"] for each in box.document("doctor") if each["check"] == "queue"]  # noqa: E731
    before = said()
    key = queue_key(box.settings.paths.state_dir / "queue.key")
    who = {"host": "devvm-copy", "boot": "other", "pid": "7"}
    open_queue(redis_server.url, b"z" * 32, consumer=who).storage.probe()
    clone = open_queue(redis_server.url, key, consumer=who)
    beats = lambda: isinstance(clone.storage.probe().others, list)  # noqa: E731
    box.until(lambda: beats() and "devvm-copy (pid 7)" in " ".join(said()), "the copy is seen", 20)
    assert len(said()) == len(before) + 1
    assert box.t3flow("doctor").stdout.count("rm ") == 1
    redis = Redis.from_url(redis_server.url)
    redis.zadd("huey.schedule.t3flow", {"x": 1})
    assert any("huey.schedule.t3flow" in each for each in said())
    redis.delete("huey.schedule.t3flow", CONSUMERS)
    box.until(lambda: said() == before, "and its end", 20)


@pytest.fixture
def bare_box(make_box: Callable[..., Sandbox]) -> Sandbox:
    return make_box(["ada"], start=False)
