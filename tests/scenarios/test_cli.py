"""The command line: exit codes, one-line errors with the mend, and help that teaches."""

import json
import re
from collections.abc import Callable
from pathlib import Path

import pytest
from scenes import FIRST, LATER, NEXT, bump

from t3flow.engine.step import STEPS
from t3flow.sandbox.host import Sandbox
from t3flow.settings.text import commented

COMMANDS = [
    "consumer",
    "enqueue",
    "status",
    "deferrals",
    "freeze",
    "unfreeze",
    "pin",
    "unpin",
    "runs",
    "show",
    "cancel",
    "verify",
    "backups",
    "restore",
    "doctor",
    "adopt",
    "config",
    "demo",
]


@pytest.fixture
def idle_box(make_box: Callable[..., Sandbox]) -> Sandbox:
    """Return a host where nothing runs."""
    return make_box(["ada"], start=False)


def one_line(text: str) -> str:
    assert len(text.strip().splitlines()) == 1, text
    assert "Traceback" not in text
    return text


def test_help_names_every_command_and_teaches(idle_box: Sandbox) -> None:
    said = idle_box.t3flow("--help")
    assert said.returncode == 0
    assert all(re.search(rf"^  {command} ", said.stdout, re.MULTILINE) for command in COMMANDS)
    assert "t3flow enqueue bump --wait" in said.stdout
    for command in COMMANDS:
        assert idle_box.t3flow(command, "--help").returncode == 0
    for command in ("bump", "drain"):
        assert "Example" in idle_box.t3flow("enqueue", command, "--help").stdout


@pytest.mark.parametrize(
    "words",
    [
        ("frobnicate",),
        ("enqueue",),
        ("enqueue", "bump", "--target", "latest"),
        ("enqueue", "bump", "--nosuch"),
        ("enqueue", "drain", "ada", "--ignore-processes", "grace"),
        ("show",),
        ("pin",),
        ("freeze", "x"),
    ],
)
def test_wrong_usage_is_exit_2(idle_box: Sandbox, words: tuple[str, ...]) -> None:
    said = idle_box.t3flow(*words)
    assert said.returncode == 2
    assert "Traceback" not in said.stderr


def test_unreadable_settings_are_exit_2_and_named(idle_box: Sandbox, tmp_path: Path) -> None:
    idle_box.config.write_text("[track\n")
    said = idle_box.t3flow("status")
    assert said.returncode == 2
    assert str(idle_box.config) in one_line(said.stderr)
    idle_box.config.write_text('[track]\npakage = "t3"\n[gate]\nport = "many"\n[colour]\nx = 1\n')
    said = idle_box.t3flow("consumer")
    assert said.returncode == 2
    for word in ("pakage", "gate.port", "colour"):
        assert word in said.stderr, "everything that is wrong, at once"
    missing = idle_box.t3flow("--config", str(tmp_path / "nosuch.toml"), "status")
    assert missing.returncode == 2
    one_line(missing.stderr)


def test_without_a_consumer(idle_box: Sandbox) -> None:
    for words in (("enqueue", "bump"), ("enqueue", "drain")):
        said = idle_box.t3flow(*words)
        assert said.returncode == 4, words
        assert "consumer" in one_line(said.stderr)


def test_config_show_and_check(idle_box: Sandbox, tmp_path: Path) -> None:
    idle_box.environment["T3FLOW_GATE__PORT"] = "4567"
    said = idle_box.t3flow("config", "show")
    assert said.returncode == 0
    line = next(line for line in said.stdout.splitlines() if line.startswith("gate.port"))
    assert "4567" in line
    assert "T3FLOW_GATE__PORT" in line
    said = idle_box.t3flow("config", "show", "gate.port")
    assert (said.returncode, said.stdout) == (0, "4567\n")
    assert idle_box.document("config", "show", "gate.port")["gate.port"]["value"] == 4567
    said = idle_box.t3flow("config", "show", "gate.prot")
    assert (said.returncode, "did you mean gate.port?" in one_line(said.stderr)) == (2, True)
    assert idle_box.t3flow("config", "show", "--commented").stdout == commented()
    del idle_box.environment["T3FLOW_GATE__PORT"]
    assert idle_box.t3flow("config", "check", str(idle_box.config)).returncode == 0
    bad = tmp_path / "bad.toml"
    bad.write_text("[gate]\nport = 99999\n[x]\n")
    said = idle_box.t3flow("config", "check", str(bad))
    assert said.returncode == 2
    assert "99999" in said.stderr + said.stdout


def test_runs_that_are_not_there(make_box: Callable[..., Sandbox]) -> None:
    box = make_box(["ada"])
    for words in (
        ("show", "nosuch"),
        ("cancel", "nosuch"),
        ("enqueue", "bump", "--without", "mallory"),
        ("verify", "mallory"),
    ):
        said = box.t3flow(*words)
        assert said.returncode in (1, 2), words
        one_line(said.stderr)
    assert box.document("deferrals") == []
    assert box.document("runs") == []


def test_what_people_see(make_box: Callable[..., Sandbox]) -> None:
    """Tables for people, JSON for scripts, nothing else on stdout; colour only on a terminal."""
    box = make_box(["ada"])
    box.publish(NEXT, {"schema_level": 32})
    said = box.t3flow("enqueue", "bump", "--wait")
    assert said.returncode == 0
    assert "updated: 1 restarted" in said.stdout
    assert "✓ Installed" in said.stderr
    for words in (("status",), ("runs",), ("deferrals",), ("backups",), ("verify",), ("config", "show")):
        plain = box.t3flow(*words)
        assert plain.returncode == 0, words
        assert "\x1b" not in plain.stdout + plain.stderr
        if words != ("config", "show"):
            shown = box.t3flow(*words, "--json")
            json.loads(shown.stdout)
    run = box.document("runs")[0]["run"]
    assert f"Installed {NEXT}" in box.t3flow("show", run).stdout
    moments = [
        box.document("show", run)["created"],
        box.document("backups")[0]["created"],
        box.document("status")["next_bump"],
    ]
    assert all(re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d(\.\d+)?[+-]\d\d:\d\d", moment) for moment in moments), (
        moments
    )


LISTINGS = [
    *(("status",), ("deferrals",), ("runs",), ("backups",), ("backups", "ada"), ("verify",), ("doctor",)),
    *(
        ("runs", "--limit", "2"),
        ("deferrals", "revoke", "grace"),
        ("deferrals", "restore", "grace"),
        ("freeze",),
        ("status",),
        ("unfreeze",),
    ),
]


def test_listings_fit_eighty_columns(make_box: Callable[..., Sandbox]) -> None:
    """Whatever there is to tell: long versions, a deferral, a rejected build, a user who cannot pair, a freeze. No key, epoch or None is shown."""
    box = make_box(["ada", "grace"])
    box.environment["COLUMNS"] = "80"
    turn = box.control("grace", "turn/start", agent="claude")["turn"]
    box.publish(NEXT, {"schema_level": 32})
    said = [box.t3flow("enqueue", "bump", "--wait")]
    box.publish(LATER, {"schema_level": 32, "rules": [{"fault": "mint_fails"}]})
    said += [box.t3flow("enqueue", "bump", "--wait"), box.t3flow("enqueue", "bump", "--wait")]
    box.supervise("stop", "ada")
    said += [box.t3flow(*words) for words in LISTINGS]
    said += [box.t3flow("show", run["run"]) for run in box.document("runs")]
    text = "".join(each.stdout + each.stderr for each in said)
    assert [] == [line for line in text.splitlines() if len(line) > 80]
    words = re.findall(r"\w+", text)
    shown = {"active_turn", "server_stopped", "unreadable_state", "None", "True", "False"} & set(words)
    assert not shown, "keys and values are for scripts"
    assert not {name for name in STEPS if "_" in name} & set(words), "step names are for the code"
    assert not re.search(r"\b1[6-9]\d{8}\b", text), "an epoch"
    assert not re.search(r"until \S+ \(\S+ \w+ ago\)", text), "a past time told as one to come"
    box.control("grace", "turn/end", turn=turn)


def test_a_bump_that_restarts_nobody_promises_nothing(make_box: Callable[..., Sandbox]) -> None:
    """The one user is at work, and the outcome says so."""
    box = make_box(["ada"])
    turn = box.control("ada", "turn/start", agent="claude")["turn"]
    box.publish(NEXT, {"schema_level": 32})
    assert bump(box)["reason"] == "no user was restarted yet, 1 deferred until idle"
    box.control("ada", "turn/end", turn=turn)


def test_a_pin_is_looked_up(make_box: Callable[..., Sandbox]) -> None:
    """One that is not published is refused at once, one that cannot be looked up too, unless a person insists."""
    box = make_box(["ada"])
    refused = box.t3flow("pin", "9.9.9")
    assert (refused.returncode, "neither installed nor in the registry" in one_line(refused.stderr)) == (2, True)
    assert box.t3flow("pin", FIRST).returncode == 0, "it is installed"
    box.end("registry_server")
    refused = box.t3flow("pin", NEXT)
    assert (refused.returncode, f"t3flow pin {NEXT} --unchecked" in one_line(refused.stderr)) == (1, True)
    assert box.document("status")["pin"] == FIRST
    assert box.t3flow("pin", NEXT, "--unchecked").returncode == 0
    assert box.document("status")["pin"] == NEXT


def test_a_refusal_has_its_command_in_sight(make_box: Callable[..., Sandbox]) -> None:
    """However long the reason of the rejection was; and with one user there is nobody to go on without."""
    box = make_box(["ada"])
    box.publish(NEXT, {"schema_level": 32, "rules": [{"fault": "mint_fails"}]})
    assert "--without" not in bump(box)["reason"]
    reason = bump(box)["reason"]
    assert reason.endswith(f"; to try it again: t3flow enqueue bump --target {NEXT} --again")
    assert len(reason) < 330


def test_progress_on_a_terminal(make_box: Callable[..., Sandbox]) -> None:
    """On a terminal the display lives; the end is the same."""
    import os
    import pty
    import subprocess
    import sys

    box = make_box(["ada"])
    box.publish(NEXT, {"schema_level": 32})
    ours, theirs = pty.openpty()
    words = [sys.executable, "-m", "t3flow", "enqueue", "bump", "--wait"]
    child = subprocess.Popen(
        words, env={**box.environment, "TERM": "xterm"}, stdin=theirs, stdout=theirs, stderr=theirs
    )
    os.close(theirs)
    seen = b""
    while True:
        try:
            part = os.read(ours, 65536)
        except OSError:
            break
        if not part:
            break
        seen += part
    os.close(ours)
    assert child.wait(30) == 0
    assert b"\x1b[" in seen
    assert b"updated" in seen


def test_verify_finds_who_cannot_pair(make_box: Callable[..., Sandbox]) -> None:
    box = make_box(["ada", "grace"], consumer=False)
    box.t3flow("verify")
    box.supervise("stop", "grace")
    said = box.t3flow("verify", "--json")
    assert said.returncode == 1
    found = {each["user"]: each["ok"] for each in json.loads(said.stdout)}
    assert found == {"ada": True, "grace": False}
    assert box.t3flow("verify", "ada").returncode == 0


def test_outcomes_have_their_exit_codes(make_box: Callable[..., Sandbox]) -> None:
    box = make_box(["ada"])
    box.publish(NEXT, {"schema_level": 32, "rules": [{"fault": "mint_fails"}]})
    assert box.t3flow("enqueue", "bump", "--wait").returncode == 1
    assert box.t3flow("enqueue", "bump", "--wait").returncode == 0, "refused_rejected"
    assert box.t3flow("enqueue", "bump", "--wait", "--dry-run").returncode in (0, 1)
    box.t3flow("freeze", "--reason", "x")
    assert box.t3flow("enqueue", "bump", "--wait").returncode == 3
    assert bump(box)["outcome"] == "frozen"
    assert box.document("status")["default_version"] == FIRST


def test_the_readme_names_every_command_and_outcome() -> None:
    """Docs cannot drift from the program."""
    from t3flow.cli.root import root
    from t3flow.rollout.outcomes import SUCCEEDED

    readme = (Path(__file__).parent.parent.parent / "README.md").read_text()
    for command in root.commands.keys() - {"consumer", "demo"}:
        assert f"t3flow {command}" in readme, command
    for outcome in (
        *(SUCCEEDED - {"too_young"}),
        "frozen",
        "gate_failed",
        "rolled_back",
        "dry_run_failed",
        "backup_failed",
        "registry_unreachable",
        "incomplete_release",
        "cancelled",
        "error",
    ):
        assert f"`{outcome}`" in readme, outcome
