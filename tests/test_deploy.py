"""What a host is given: that it says what the code does, and does what it says."""

import os
import re
import stat
import subprocess
import time
import tomllib
from collections.abc import Iterator
from pathlib import Path

import pytest
import redis
from conftest import redis_program

from t3flow.deferrals import blockers, long_waits
from t3flow.host.pairing import log_lines
from t3flow.service import verifier
from t3flow.settings import load
from t3flow.settings.schema import declared
from t3flow.settings.text import commented
from t3flow.t3 import unknown

ROOT = Path(__file__).parent.parent
DEPLOY = ROOT / "deploy"
SOURCES = "".join(path.read_text() for path in (ROOT / "t3flow").rglob("*.py"))
ALERTS = dict(re.findall(r"alert: (\w+)\n\s+expr: .*\|~ `([^`]+)`", (DEPLOY / "alerts.yml").read_text()))


def test_a_fresh_settings_file_sets_nothing_and_knows_every_key(tmp_path: Path) -> None:
    """As it is it is all defaults; with every # before a key taken away too, and then each key is the file's."""
    file = tmp_path / "config.toml"
    file.write_text(commented())
    assert load.check(file) == []
    assert load.load(file, {})[:-1] == load.Settings()[:-1]
    file.write_text(re.sub(r"(?m)^#(\w+ = )", r"\1", commented()))
    assert load.check(file) == []
    read = load.load(file, {})
    assert read[:-1] == load.Settings()[:-1]
    assert read.sources == dict.fromkeys(declared(), f"file {file}")
    tomllib.loads(commented())
    for key in declared():
        line = re.search(rf"(?m)^# .+\n# value: .+\n#{key.partition('.')[2]} = ", commented())
        assert line, f"{key} has no comment"


def test_the_alerts_keep_their_names() -> None:
    """Scripts and people know them by these names."""
    known = [
        "T3PairingBroken",
        "T3PairFallbackHigh",
        "T3AutoUpdateRolledBack",
        "T3AutoUpdateRollbackFailed",
        "T3AutoUpdateFrozen",
    ]
    assert list(ALERTS) == [
        *known,
        "T3PortTaken",
        "T3Unknown",
        "T3JournalDiskFull",
        "T3DeferralOld",
        "T3DeferralStuck",
        "T3GateInconclusive",
        "T3FlowNoCheck",
        "T3UserUnpaired",
        "T3NoPairing",
        "T3FleetStuck",
        "T3FleetUnreachable",
        "T3FleetHostSilent",
        "T3FleetRecordsDropped",
    ]


@pytest.mark.parametrize(
    "name",
    ["T3AutoUpdateRolledBack", "T3AutoUpdateRollbackFailed", "T3AutoUpdateFrozen", "T3PortTaken", "T3GateInconclusive"],
)
def test_an_alert_matches_what_the_code_logs(name: str) -> None:
    """Each of its words stands in a message that some step logs."""
    for word in ALERTS[name].split("|"):
        assert re.search(rf'(logger\.\w+\(\s*f?"|tasks\.alert\(f?")[^"]*{word}', SOURCES), word


@pytest.mark.parametrize(
    ("name", "mark"),
    [
        ("T3Unknown", unknown.MARK),
        ("T3DeferralOld", long_waits.MARK),
        ("T3DeferralStuck", blockers.MARK),
        ("T3UserUnpaired", verifier.USER_UNPAIRED),
        ("T3NoPairing", verifier.NO_PAIRING),
    ],
)
def test_an_alert_matches_the_mark_that_the_code_logs(name: str, mark: str) -> None:
    """The words that the log line begins with are a constant of the code."""
    assert ALERTS[name] == mark


def test_a_frozen_host_that_looks_at_no_tag_is_told_once() -> None:
    """Each night it writes the line of the freeze, which has an alert of its own, and no line on the tag."""
    line = "FROZEN since Thu Jun 11 04:00:00 2026: demo day; resume with: t3flow unfreeze"
    for name in ("T3AutoUpdateFrozen", "T3FlowNoCheck"):  # the latter fires where no line matches
        assert re.search(ALERTS[name], line), name


def test_the_alerts_on_pairing_agree_with_the_watch_over_it() -> None:
    """The same lines count for both; a line that is neither a failure nor a fallback counts for none."""
    lines = {
        "mint for ada failed: exit 1": "failure",
        "pairing exchange for ada failed: TimeoutError at port 1": "failure",
        "pairing for ada returned 500": "failure",
        "paired user=ada endpoint=/api/auth/bootstrap fallback=true": "fallback",
        "paired user=ada endpoint=/api/auth/browser-session fallback=false": None,
        "request for ada failed: TimeoutError at port 1": None,
    }
    for line, kind in lines.items():
        said = log_lines.match_line(line)
        assert (said[0] if said else None) == kind, line
        assert bool(re.search(ALERTS["T3PairingBroken"], line)) is (kind == "failure"), line
        assert bool(re.search(ALERTS["T3PairFallbackHigh"], line)) is (kind == "fallback"), line


# Redis --------------------------------------------------------------------------------------------------------------


@pytest.fixture
def redis_of_deploy(tmp_path: Path) -> Iterator[tuple[Path, subprocess.Popen[bytes]]]:
    """redis-server on the file of deploy/redis, with its two folders elsewhere."""
    text = (DEPLOY / "redis/redis.conf").read_text()
    text = text.replace("/var/lib/t3flow-redis", str(tmp_path)).replace("/etc/t3flow-redis", str(tmp_path))
    (tmp_path / "redis.conf").write_text(text)
    (tmp_path / "password.conf").write_text("requirepass open-sesame\n")
    child = subprocess.Popen([redis_program(), str(tmp_path / "redis.conf")], stdout=subprocess.DEVNULL)
    deadline = time.monotonic() + 10
    while not (tmp_path / "redis.sock").exists():
        assert child.poll() is None
        assert time.monotonic() < deadline
        time.sleep(0.02)
    yield tmp_path, child
    child.kill()
    child.wait()


def test_the_redis_of_deploy_is_nobody_elses(redis_of_deploy: tuple[Path, subprocess.Popen[bytes]]) -> None:
    """No port, a socket for its account alone, nothing without the password; and what was written is there after a crash."""
    folder, child = redis_of_deploy
    listening = Path(f"/proc/{child.pid}/net/tcp").read_text() + Path(f"/proc/{child.pid}/net/tcp6").read_text()
    ours = {os.readlink(link) for link in Path(f"/proc/{child.pid}/fd").iterdir() if link.is_symlink()}
    assert not [line for line in listening.splitlines()[1:] if f"socket:[{line.split()[9]}]" in ours]
    assert stat.S_IMODE((folder / "redis.sock").stat().st_mode) == 0o700
    with pytest.raises(redis.exceptions.AuthenticationError):
        redis.Redis.from_url(f"unix://{folder}/redis.sock").ping()
    known = redis.Redis.from_url(f"unix://:open-sesame@{folder}/redis.sock")
    known.set("a", "b")
    time.sleep(1.2)
    child.kill()
    child.wait()
    assert b"open-sesame" not in (folder / "redis.conf").read_bytes()
    assert any(b"\r\nb\r\n" in path.read_bytes() for path in folder.rglob("*.aof"))


def test_both_ways_to_run_redis_are_the_same_redis() -> None:
    """One file of settings, one socket; an image that is pinned, and looked after."""
    compose, unit = (ROOT / "docker-compose.yml").read_text(), (DEPLOY / "redis/t3flow-redis.service").read_text()
    recipe = (DEPLOY / "redis/README.md").read_text()
    assert re.search(r"image: redis:\d+\.\d+\.\d+-\w+\n", compose)
    assert "ports:" not in compose
    assert "network_mode: none" in compose
    for text in (compose, unit, recipe):
        assert "/etc/t3flow-redis" in text
        assert "/var/lib/t3flow-redis" in text or "StateDirectory=t3flow-redis" in text
    (url,) = re.findall(r'url = "([^"]+)"', recipe)
    assert load.load(None, {"T3FLOW_QUEUE__URL": url}).queue.url == url


@pytest.mark.parametrize(
    "script",
    [
        "deploy/install.sh",
        "deploy/uninstall.sh",
        "tests/box/prepare.sh",
        "tests/web/prepare.sh",
        "tests/monitoring/prepare.sh",
        "tools/setup.sh",
        "tools/hooks.sh",
        "tools/pre-commit",
    ],
)
def test_the_scripts_are_plain_sh(script: str) -> None:
    """They parse; and install and uninstall refuse what they do not know with their usage, changing nothing."""
    assert subprocess.run(["sh", "-n", str(ROOT / script)], check=False).returncode == 0
    if script.startswith("deploy") and os.geteuid() != 0:  # root's would do what they are for
        refused = subprocess.run(["sh", str(ROOT / script), "--help"], capture_output=True, text=True, check=False)
        assert (refused.returncode, "usage: " in refused.stderr) == (2, True)
        not_root = subprocess.run(["sh", str(ROOT / script)], capture_output=True, text=True, check=False)
        assert (not_root.returncode, not_root.stderr.count("\n"), "root" in not_root.stderr) == (1, 1, True)
