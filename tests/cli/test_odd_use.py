"""The command line in odd circumstances: streams that are closed, bytes that are no text, a journal that cannot be read, names that a shell would change."""

import fcntl
import json
import os
import re
import shlex
import sqlite3
import subprocess
import sys
from collections.abc import Callable
from contextlib import closing
from pathlib import Path

import pytest

from t3flow import settings
from t3flow.cli import output
from t3flow.engine.journal import Journal
from t3flow.engine.runs import new_run
from t3flow.host import freeze
from t3flow.host.host import Host
from t3flow.host.records import facts
from t3flow.state import host as state
from t3flow.state import problems

Said = subprocess.CompletedProcess[bytes]


@pytest.fixture
def t3flow(hosted: Callable[..., Host], tmp_path: Path) -> Callable[..., Said]:
    """Return a function that runs a command on a host with a journal and without a consumer."""
    hosted()

    def run(*words: str | bytes, closed: str = "") -> Said:
        command = [sys.executable, "-m", "t3flow", *words]
        if closed:
            command = ["sh", "-c", f'exec "$@" {closed}', "sh", *command]
        environment = {**os.environ, "T3FLOW_CONFIG": str(tmp_path / "box/config.toml")}
        return subprocess.run(command, env=environment, capture_output=True, timeout=60, check=False)

    return run


@pytest.fixture
def freeze_file(tmp_path: Path) -> Path:
    return tmp_path / "box/etc/t3-autoupdate.freeze"


def test_a_reason_in_another_encoding_freezes(t3flow: Callable[..., Said], freeze_file: Path) -> None:
    """As a terminal sends it that is set to Latin-1. The freeze may be urgent."""
    said = t3flow("freeze", "--reason", "Vorführung".encode("latin-1"))
    assert (said.returncode, said.stderr) == (0, b"")
    assert freeze_file.read_text() == "Vorf�hrung\n"
    assert t3flow("hold", "ada", "--reason", b"\xff").returncode == 0


@pytest.mark.parametrize("closed", [">&-", "2>&-", "<&- >&- 2>&-"])
def test_closed_streams_are_no_error(t3flow: Callable[..., Said], closed: str) -> None:
    for words, code in ((("status",), 0), (("runs",), 0), (("freeze",), 0), (("show", "none"), 2)):
        said = t3flow(*words, closed=closed)
        assert (said.returncode, b"internal" in said.stderr) == (code, False), words


@pytest.mark.parametrize("limit", ["0", "-1", "99999999999999999999"])
@pytest.mark.parametrize("command", ["runs", "actions"])
def test_a_limit_that_is_none_is_refused(t3flow: Callable[..., Said], command: str, limit: str) -> None:
    said = t3flow(command, "--limit", limit)
    assert said.returncode == 2
    assert b"--limit" in said.stderr


def test_an_empty_word_names_nothing(t3flow: Callable[..., Said], hosted: Callable[..., Host], tmp_path: Path) -> None:
    """As an unset variable of a script gives it: the only run would be canceled."""
    with closing(sqlite3.connect(tmp_path / "box/state/journal.db")) as connection, connection:
        connection.execute(
            "insert into runs (id, workflow, args, created, updated) values ('bump-1', 'bump', '{}', 1, 1)"
        )
    for words in (("cancel", ""), ("show", ""), ("backups", "")):
        assert t3flow(*words).returncode == 2, words
    with closing(sqlite3.connect(tmp_path / "box/state/journal.db")) as connection:
        assert connection.execute("select count(*) from signals").fetchone() == (0,)


def test_each_row_of_a_table_is_one_line(capsys: pytest.CaptureFixture[str]) -> None:
    """So is a record of what a person typed with a line break."""
    output.table(["action", "result"], [["release a\nb", "refused:\r\nno\ttab"]])
    assert len(capsys.readouterr().out.splitlines()) == 2


def test_a_freeze_file_of_several_lines_is_one_reason(hosted: Callable[..., Host], freeze_file: Path) -> None:
    host = hosted()
    freeze_file.write_text("demo day\nuntil Friday\n")
    found = freeze.frozen(host.settings, host.journal)
    assert found is not None
    assert found["reason"] == "demo day until Friday"


def test_freeze_and_unfreeze_need_no_journal(t3flow: Callable[..., Said], freeze_file: Path, tmp_path: Path) -> None:
    for path in (tmp_path / "box/state").glob("journal.db*"):
        path.unlink()
    said = t3flow("freeze")
    assert b"resume with: t3flow unfreeze" in said.stdout
    said = t3flow("unfreeze")
    assert (said.returncode, freeze_file.exists()) == (0, False)
    assert b"No longer frozen" in said.stdout


def test_a_damaged_journal_is_the_first_problem(t3flow: Callable[..., Said], tmp_path: Path) -> None:
    """What only the journal knows looks as if it were not there: pin, holds, deferrals, the next bump."""
    path = tmp_path / "box/state/journal.db"
    path.write_bytes(b"not a database at all " * 500)
    found = json.loads(t3flow("status", "--json").stdout)["problems"][0]
    assert (found["key"], str(path) in found["text"], found["remedy"]) == ("journal", True, "see t3flow doctor")
    [finding] = json.loads(t3flow("doctor", "--json").stdout)
    assert finding["check"] == "journal"
    assert "file is not a database" in finding["problem"]
    assert finding["remedy"].startswith("check that its folder exists")


def test_a_locked_journal_is_not_to_be_replaced(hosted: Callable[..., Host], monkeypatch: pytest.MonkeyPatch) -> None:
    host = hosted()
    monkeypatch.setattr("t3flow.engine.journal.BUSY_TIMEOUT_SECONDS", 0.1)
    with closing(sqlite3.connect(host.journal.path, isolation_level=None)) as other:
        other.execute("begin exclusive")
        [found, *_] = state.collect(host.settings, is_live=False)["problems"]
    assert found["key"] == "journal"
    assert "locked" in found["text"]
    assert "restore" not in found["text"]


def test_a_dry_run_does_not_hide_how_the_last_bump_ended(hosted: Callable[..., Host]) -> None:
    host = hosted()
    for number, (args, outcome) in enumerate([({}, "gate_inconclusive"), ({"dry_run": True}, "dry_run_passed")]):
        run = new_run(host.journal, "bump", args)
        with host.journal.transaction() as connection:
            connection.execute(
                "update runs set status = 'succeeded', outcome = ?, result = '{}', created = ? where id = ?",
                (outcome, number, run),
            )
    found = state.last_bump(host.journal)
    assert found is not None
    assert found["outcome"] == "gate_inconclusive"


def test_commands_name_users_and_units_as_a_shell_takes_them(hosted: Callable[..., Host]) -> None:
    """Accounts may have a backslash in their name, and units of `%I` have one for each dash."""
    host = hosted()
    user, unit = "CORP\\ada", "t3-serve@CORP\\x5cada.service"
    found = state.collect(host.settings, host.journal, is_live=False)
    each = {
        **next(iter(found["users"].values()), {}),
        "unit": unit,
        "active": False,
        "managed": True,
        "running_version": None,
        "assigned_version": None,
        "deferred": None,
        "held": None,
        "left_behind": None,
        "unknown": "",
        "pairing": "unknown",
    }
    [down] = problems.of_user(user, each, found)  # type: ignore[arg-type]
    assert shlex.split(down.remedy)[-1] == unit
    each |= {"pairing": "failing", "pairing_seen": None, "pairing_reason": "502"}
    [unpaired] = problems.of_user(user, each, found)  # type: ignore[arg-type]
    assert shlex.split(unpaired.remedy)[-1] == user


def test_config_show_knows_each_key_that_a_message_names(t3flow: Callable[..., Said]) -> None:
    sources = "".join(path.read_text() for path in Path(settings.__file__).parents[1].rglob("*.py"))
    named = set(re.findall(r"t3flow config show (?!lists )([a-z_]+(?:\.[a-z_]+)?)", sources))
    assert {"metrics", "notify.urls"} <= named
    for key in named:
        said = t3flow("config", "show", key)
        assert (said.returncode, said.stderr) == (0, b""), key
    assert t3flow("config", "show", "metric").returncode == 2


def test_config_show_names_what_the_running_consumer_has_otherwise(t3flow: Callable[..., Said], tmp_path: Path) -> None:
    """An operator who has changed the file sees the new values, and that they are not in force."""
    box = tmp_path / "box"
    described = [["gate.port", 4567, "default"], ["gate.user", "t3flow", "default"]]
    facts.write(Journal(box / "state/journal.db"), "consumer", {"settings": described})
    assert t3flow("config", "show", "gate").stderr == b"", "no consumer runs"
    with (box / "state/consumer.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        lock.write(f"{os.getpid()}")
        lock.flush()
        said = t3flow("config", "show", "gate").stderr.decode()
        assert ("gate.port = 4567" in said, "gate.user" in said) == (True, False)
        assert said.endswith("systemctl restart t3flow\n")


def test_a_fleet_that_the_consumer_does_not_know_yet(t3flow: Callable[..., Said], tmp_path: Path) -> None:
    """The settings file names it already; the consumer reads that when it starts."""
    config = tmp_path / "box/config.toml"
    (tmp_path / "box/state/fleet.json").write_text('{"url": ""}')
    assert b"set fleet.url" in t3flow("fleet", "status").stderr
    config.write_text(config.read_text() + '[fleet]\nurl = "redis://127.0.0.1:1/0"\n')
    assert b"systemctl restart t3flow" in t3flow("fleet", "status").stderr
