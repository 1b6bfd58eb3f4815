"""Settings: where each value comes from, and that nothing runs on half-read ones."""

import json
import os
import tomllib
from collections.abc import Iterator
from datetime import time
from pathlib import Path
from typing import Any
from urllib.parse import quote

import pytest
from hypothesis import example, given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st

import t3flow.settings.load
from t3flow.settings.load import Settings, SettingsError, check, load
from t3flow.settings.schedule import window_times
from t3flow.settings.schema import declared
from t3flow.settings.text import describe, mask

PROMISED = """
[track]
package = "t3"
tag = "nightly"
pin = ""
min_age_hours = 0
[paths]
state_dir = "/var/lib/t3flow"
freeze_file = "/etc/t3-autoupdate.freeze"
last_good_file = "/var/lib/t3-autoupdate/last-good"
backup_dir = "/var/backups/t3-state"
versions_dir = "/opt/t3"
launcher = "/usr/bin/t3"
scratch_dir = "/var/tmp"
user_map = "/etc/ttyd-user-map"
serve_env_dir = "/etc/t3-serve"
[serve]
backend = "systemd"
unit = "t3-serve@{user}.service"
base_dir = "{home}/.t3"
agent_processes = ["claude", "codex", "opencode", "cursor-agent", "grok", "kiro-cli", "antigravity", "pi"]
[dispatch]
url = "http://127.0.0.1:3780"
user_header = "X-authentik-username"
cookie = ""
pair_endpoints = ["/api/auth/browser-session", "/api/auth/bootstrap"]
verify_timeout_s = 30
log = "journal:t3-dispatch.service"
[gate]
seeds = "all"
port = 3799
start_timeout_s = 60
limit_minutes = 60
user = "t3flow"
[canary]
order = "smallest_first"
soak_minutes = 0
[deferral]
quiet_seconds = 900
window = "01:00-05:40"
max_check_interval_s = 1200
processes_days = 0
later_days = 7
[backup]
keep = 6
timeout_s = 900
replaced_days = 0
gone_days = 14
[schedule]
bump = "0 4 * * *"
jitter_s = 3600
latest = "07:00"
retry_s = 300
timezone = ""
[bake]
minutes = 60
max_failures = 3
rollback = false
[queue]
url = "sqlite:///var/lib/t3flow/queue.db"
[npm]
command = "npm"
timeout_s = 600
retry_for_s = 120
verify_signatures = "auto"
[journal]
keep_days = 90

[notify]
ping_url = ""
webhook_url = ""
urls = []
on = ["failed", "rolled_back", "frozen", "recovered", "updated"]

[metrics]
textfile = ""
listen = ""

[web]
listen = "unix:///run/t3flow/web.sock"
admins = []

[verify]
every_minutes = 60
[fleet]
url = ""
group = "default"
host = ""
slots = 1
wave = 0
alone_after_hours = 0
silent_hours = 26
key_file = "/etc/t3flow/fleet.key"
peers = "/etc/t3flow/fleet.d"
[log]
level = "INFO"
json = false
"""
"""The defaults as users were promised them."""


@pytest.fixture(autouse=True, scope="module")
def no_settings_of_this_host(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """Return the default file is one that is missing, whatever the host has."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(t3flow.settings.load, "DEFAULT_FILE", tmp_path_factory.mktemp("etc") / "config.toml")
        yield


@pytest.fixture
def file(tmp_path: Path) -> Path:
    """Where a test writes its settings."""
    return tmp_path / "config.toml"


def _problems(path: Path | None, environ: dict[str, str]) -> list[str]:
    """Return the problems for which these settings are refused."""
    with pytest.raises(SettingsError) as refusal:
        load(path, environ)
    assert str(refusal.value).split("\n") == refusal.value.problems
    return refusal.value.problems


def test_defaults_are_as_promised(monkeypatch: pytest.MonkeyPatch, file: Path) -> None:
    """Without file and environment every setting has its promised value, in that order, and says so."""
    monkeypatch.setattr(t3flow.settings.load, "DEFAULT_FILE", file)
    promised = tomllib.loads(PROMISED)

    described = describe(load(None, {}))

    expected = [(f"{section}.{key}", value) for section, table in promised.items() for key, value in table.items()]
    assert expected == [(key, value) for key, value, _ in described]
    assert {"default"} == {source for _, _, source in described}


def test_defaults_pass_their_own_checks(file: Path) -> None:
    """The promised file, written out, is a file without problems and means the same as no file."""
    file.write_text(PROMISED)

    assert [] == check(file)
    assert Settings()[:-1] == load(file, {})[:-1]


def test_every_setting_is_described() -> None:
    """Each key says in one line what it means and what it takes."""
    for key, setting in declared().items():
        assert setting.meaning, key
        assert setting.expected, key
        assert "\n" not in setting.meaning + setting.expected


def test_values_are_nested_typed_and_frozen() -> None:
    """Code reads plain values of the right types and cannot change them."""
    settings = Settings()

    assert Path("/opt/t3") == settings.paths.versions_dir
    assert settings.log.json is False
    name = "tag"
    with pytest.raises(AttributeError, match="set"):
        setattr(settings.track, name, "latest")


def test_the_file_is_the_argument_then_the_variable_then_the_default(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """The three ways to name the file, strongest first, each recorded as the source."""
    for name in ("argument", "variable", "default"):
        (tmp_path / name).write_text(f'[track]\ntag = "{name}"\n')
    monkeypatch.setattr(t3flow.settings.load, "DEFAULT_FILE", tmp_path / "default")
    environ = {"T3FLOW_CONFIG": str(tmp_path / "variable")}

    for settings, expected in [
        (load(tmp_path / "argument", environ), "argument"),
        (load(None, environ), "variable"),
        (load(None, {"T3FLOW_CONFIG": ""}), "default"),
        (load(None, {}), "default"),
    ]:
        assert expected == settings.track.tag
        assert f"file {tmp_path / expected}" == settings.sources["track.tag"]
        assert "default" == settings.sources["track.package"]


def test_a_named_file_must_be_there(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Only the default file may be missing; a dangling link in its place is not missing."""
    missing = tmp_path / "nowhere.toml"

    [by_argument] = _problems(missing, {})
    [by_variable] = _problems(None, {"T3FLOW_CONFIG": str(missing)})

    assert by_argument == by_variable
    assert by_argument.startswith(f"{missing}: cannot be read (No such file or directory)")

    monkeypatch.setattr(t3flow.settings.load, "DEFAULT_FILE", missing)
    load(None, {})
    missing.symlink_to(tmp_path / "gone")
    assert f"{missing}: cannot be read" in _problems(None, {})[0]


@pytest.mark.skipif(os.geteuid() == 0, reason="root may read everything")
def test_a_default_file_that_may_not_be_seen_is_an_error(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Not being allowed to look is no reason to run on defaults."""
    folder = tmp_path / "closed"
    folder.mkdir(mode=0)
    monkeypatch.setattr(t3flow.settings.load, "DEFAULT_FILE", folder / "config.toml")

    assert "Permission denied" in _problems(None, {})[0]


@pytest.mark.parametrize(
    ("content", "expected"),
    [
        (b"[track\n", "not TOML: Expected"),
        (b"track = {", "not TOML"),
        (b"a = " + b"[" * 100_000, "not TOML"),
        (b'[track]\ntag = "\xff"\n', "not UTF-8 (byte 15)"),
        (b"[gate]\nport = " + b"1" * 5000, "not TOML: Exceeds"),
        (b"[gate]\nport = 0x" + b"1" * 5000, "gate.port: a number of thousands of digits is out of range"),
    ],
)
def test_a_file_that_is_no_toml_is_one_problem(file: Path, content: bytes, expected: str) -> None:
    """Broken TOML is named with its place, on one line."""
    file.write_bytes(content)

    [problem] = check(file)

    assert problem.startswith(f"{file}: {expected}")
    assert problem.isprintable()


IMPOSSIBLE = [
    ("track.package", '"../x"', "is not valid"),
    ("track.package", '"T3"', "is not valid"),
    ("track.package", '"@scope/"', "is not valid"),
    ("track.package", '"t3@latest"', "is not valid"),
    ("track.package", f'"{"a" * 215}"', "is not valid"),
    ("track.tag", '"0.0.25"', "is not valid"),
    ("track.tag", '"v1"', "is not valid"),
    ("track.tag", '"x"', "is not valid"),
    ("track.tag", '"*"', "is not valid"),
    ("track.tag", '""', "is not valid"),
    ("track.tag", "3", "is an integer"),
    ("track.pin", '"latest"', 'is not an exact version; expected an exact version, or "" to follow track.tag'),
    ("track.pin", '"^0.0.25"', "is not an exact version;"),
    ("track.min_age_hours", "-1", "is out of range"),
    ("track.min_age_hours", "true", "is a boolean"),
    ("paths.state_dir", '"var/lib"', "is not absolute"),
    ("paths.state_dir", '"~/t3flow"', "is not absolute"),
    ("paths.state_dir", '""', "is not absolute"),
    ("paths.state_dir", '"/var/../etc"', "contains .."),
    ("paths.state_dir", '"/"', "is the root folder"),
    ("paths.state_dir", '"/a\\u0000b"', "contains control characters"),
    ("paths.state_dir", "5", "is an integer"),
    ("serve.backend", '"docker"', "is not one of these words; expected systemd or process"),
    ("serve.unit", '"t3.service"', "does not contain {user}"),
    ("serve.unit", '"t3@{user}"', "is not the name of a service unit"),
    ("serve.unit", '"t3@{user}.{home}.service"', "contains the unknown placeholder {home}"),
    ("serve.unit", '"t3@{user!r}.service"', "contains a placeholder with more than a name"),
    ("serve.unit", '"t3@{user.service"', "contains a stray brace"),
    ("serve.base_dir", '"/srv/t3"', "contains neither {home} nor {user}"),
    ("serve.base_dir", '"{name}/.t3"', "contains the unknown placeholder {name}"),
    ("serve.base_dir", '"{user}/.t3"', "is not absolute"),
    ("serve.base_dir", '"/srv{home}"', "contains {home} after the start"),
    ("serve.agent_processes", '"claude"', "is a string"),
    ("serve.agent_processes", '["claude", 3]', "contains 3, which is an integer"),
    ("serve.agent_processes", '["bin/claude"]', "contains 'bin/claude', which is not valid"),
    ("serve.agent_processes", '["claude", "claude"]', "contains a duplicate"),
    ("dispatch.url", '"127.0.0.1:3780"', "is not an http or https URL"),
    ("dispatch.url", '"ftp://127.0.0.1"', "is not an http or https URL"),
    ("dispatch.url", '"http://"', "names no host"),
    ("dispatch.url", '"http://h/path"', "contains more than a host and a port"),
    ("dispatch.url", '"http://h?x=1"', "contains more than a host and a port"),
    ("dispatch.url", '"http://u:p@h"', "contains more than a host and a port"),
    ("dispatch.url", '"http://h:70000"', "is not a URL (host or port)"),
    ("dispatch.url", '"http://h:0"', "has port 0"),
    ("dispatch.url", '"http://[::1"', "is not a URL (host or port)"),
    ("dispatch.url", '"http://a b"', "contains spaces or control characters"),
    ("dispatch.url", '"http://h\\r\\nX: y"', "contains spaces or control characters"),
    ("dispatch.user_header", '"X authentik"', "is not valid"),
    ("dispatch.user_header", '"X-a:"', "is not valid"),
    ("dispatch.user_header", '""', "is not valid"),
    ("dispatch.cookie", '"t3;session"', "is not valid"),
    ("dispatch.pair_endpoints", "[]", "is empty"),
    ("dispatch.pair_endpoints", '["api/auth"]', "contains 'api/auth', which is not valid"),
    ("dispatch.pair_endpoints", '["//host/x"]', "is not valid"),
    ("dispatch.pair_endpoints", '["/a b"]', "is not valid"),
    ("dispatch.verify_timeout_s", "0", "is out of range"),
    ("dispatch.verify_timeout_s", "nan", "is out of range"),
    ("dispatch.verify_timeout_s", "inf", "is out of range"),
    ("dispatch.log", '"dispatch.log"', "is not absolute"),
    ("dispatch.log", '"/var/log/../x"', "contains .."),
    ("dispatch.log", '"journal:"', "names no service unit after journal:"),
    ("dispatch.log", '"journal:t3-dispatch"', "names no service unit after journal:"),
    ("dispatch.log", '"journal:t3 dispatch.service"', "names no service unit after journal:"),
    ("gate.seeds", '"some"', "is not one of these words"),
    ("gate.seeds", "[]", "is empty"),
    ("gate.seeds", '["root"]', "contains 'root', which is not valid"),
    ("gate.seeds", '["../x"]', "contains '../x', which is not valid"),
    ("gate.seeds", "7", "is an integer"),
    ("gate.port", "0", "is out of range"),
    ("gate.port", "80", "is out of range"),
    ("gate.port", "65536", "is out of range"),
    ("gate.port", "3799.5", "is a float; expected an integer from 1024 to 65535"),
    ("gate.port", '"3799"', "is a string"),
    ("gate.start_timeout_s", "-1", "is out of range"),
    ("gate.limit_minutes", "0", "is out of range"),
    ("gate.user", '"root"', "is not valid; expected the name of an account other than root"),
    ("gate.user", '"T3 Flow"', "is not valid"),
    ("canary.order", '"random"', "is not one of these words; expected smallest_first or map_order"),
    ("deferral.quiet_seconds", "-900", "is out of range"),
    ("deferral.quiet_seconds", "1e300", "is out of range"),
    ("deferral.quiet_seconds", '"900"', "is a string"),
    ("deferral.window", '"01:00"', "is not valid"),
    ("deferral.window", '"1:00-5:40"', "is not valid"),
    ("deferral.window", '"01:00-24:00"', "is not valid"),
    ("deferral.window", '"01:00-05:40-06:00"', "is not valid"),
    ("deferral.window", '"03:00-03:00"', "is not valid"),
    ("deferral.max_check_interval_s", "0", "is out of range"),
    ("backup.keep", "0", "is out of range"),
    ("backup.keep", "2.0", "is a float"),
    ("backup.timeout_s", "0", "is out of range"),
    ("schedule.bump", '""', "has 0 fields"),
    ("schedule.bump", '"0 4 * *"', "has 4 fields"),
    ("schedule.bump", '"0 0 4 * * *"', "has 6 fields"),
    ("schedule.bump", '"60 4 * * *"', "has a bad minute"),
    ("schedule.bump", '"0 4 * * FOO"', "has a bad day-of-week"),
    ("schedule.bump", '"*/0 4 * * *"', "has a bad minute"),
    ("schedule.bump", '"0 4 30 2 *"', "has a bad day-of-month"),
    ("schedule.bump", f'"{"1" * 5000} 4 * * *"', "is longer than 200 characters"),
    ("schedule.jitter_s", "-1", "is out of range"),
    ("schedule.jitter_s", "86401", "is out of range"),
    ("schedule.latest", '"7:00"', "is not valid"),
    ("schedule.latest", "07:00:00", "is a date or time"),
    ("schedule.retry_s", "-1", "is out of range"),
    ("schedule.retry_s", "3601", "is out of range"),
    ("schedule.timezone", '"Mars/Olympus"', "is not a time zone of this host, nor a rule"),
    ("schedule.timezone", '"../../etc/passwd"', "is not a time zone of this host, nor a rule"),
    ("schedule.timezone", '"Europe"', "is not a time zone of this host, nor a rule"),
    ("bake.minutes", "-1", "is out of range"),
    ("bake.max_failures", "0", "is out of range"),
    ("bake.rollback", '"yes"', "is a string; expected true or false"),
    ("bake.rollback", "1", "is an integer; expected true or false"),
    ("queue.url", '"amqp://h/x"', "has the unknown scheme amqp"),
    ("queue.url", '"/var/lib/queue.db"', "has no scheme"),
    ("queue.url", '"sqlite://queue.db"', "has a host before the path"),
    ("queue.url", '"sqlite:///"', "is the root folder"),
    ("queue.url", '"sqlite:///a?mode=ro"', "contains more than a path"),
    ("queue.url", '"redis://"', "names no host"),
    ("queue.url", '"redis://h:0"', "has port 0"),
    ("queue.url", '"redis://h/db"', "has a database that is not a number"),
    ("queue.url", '"redis://h?ssl_ca_certs=/x"', "has the option ssl_ca_certs, which cannot be used with redis"),
    ("queue.url", '"redis://h?foo=1"', "has the option foo"),
    ("queue.url", '"unix:///run/redis.sock?db=x"', "has the option db that is not a number"),
    ("queue.url", '"redis+sentinel://h1/mymaster?socket_timeout=abc"', "has the option socket_timeout"),
    ("queue.url", '"unix://socket"', "has a host before the path"),
    ("queue.url", '"redis+sentinel://h1,h2:26379"', "names no service"),
    ("queue.url", '"redis+sentinel://h1,:1/mymaster"', "names no host"),
    ("queue.url", '"redis+sentinel://h1:0/mymaster"', "has port 0"),
    ("queue.url", '"redis+sentinel://h1:x/mymaster"', "is not a URL (host or port)"),
    ("queue.url", '"redis+sentinel://h1/mymaster/db"', "has a database that is not a number"),
    ("npm.command", '""', "is not valid"),
    ("npm.command", '"bin/npm"', "is not valid"),
    ("npm.timeout_s", "0", "is out of range"),
    ("npm.retry_for_s", "-1", "is out of range"),
    ("npm.verify_signatures", "true", "is a boolean; expected auto, require or off"),
    ("journal.keep_days", "0", "is out of range"),
    ("canary.soak_minutes", "-1", "is out of range"),
    ("backup.replaced_days", "13", "is out of range"),
    ("backup.replaced_days", "-1", "is out of range"),
    ("backup.gone_days", "0", "is out of range"),
    ("deferral.processes_days", "-1", "is out of range"),
    ("deferral.later_days", "0", "is out of range"),
    ("notify.ping_url", '"hc-ping.com/x"', "is not an http or https URL"),
    ("notify.ping_url", '"https://h/#x"', "contains a fragment"),
    ("notify.webhook_url", '"https://"', "names no host"),
    ("notify.webhook_url", '"https://h/a b"', "contains spaces or control characters"),
    ("notify.urls", '"slack://a/b/c"', "is a string"),
    ("notify.urls", '["file /etc"]', "contains, as item 1, no URL"),
    ("notify.on", '["everything"]', "contains 'everything', which is not one of these words"),
    ("metrics.textfile", '"t3flow.prom"', "is not absolute"),
    ("metrics.textfile", '"/var/lib/t3flow.txt"', "does not end in .prom"),
    ("metrics.listen", '"0.0.0.0:9464"', "is neither a Unix socket nor a port on loopback"),
    ("metrics.listen", '"127.0.0.1:0"', "is out of range"),
    ("web.listen", '"unix://run/web.sock"', "has a host before the path"),
    ("web.listen", '"unix:///run/../web.sock"', "contains .."),
    ("web.admins", '["ada", "ada"]', "contains a duplicate"),
    ("web.admins", '[" "]', "is not valid"),
    ("verify.every_minutes", "-1", "is out of range"),
    ("fleet.url", '"sqlite:///var/lib/q.db"', "has the unknown scheme sqlite"),
    ("fleet.url", '"redis://"', "names no host"),
    ("fleet.url", '"https://lock.example/?x=1"', "contains more than a host, a port and a path"),
    ("fleet.url", '"https://a:b@lock.example/"', "contains more than a host, a port and a path"),
    ("fleet.url", '"redis+sentinel://a,b/main"', "names Sentinels"),
    ("fleet.group", '""', "is not valid"),
    ("fleet.group", '"a:b"', "is not valid"),
    ("fleet.host", '"-x"', "is not valid"),
    ("fleet.host", f'"{"a" * 64}"', "is not valid"),
    ("fleet.slots", "0", "is out of range"),
    ("fleet.wave", "-1", "is out of range"),
    ("fleet.wave", "1.5", "is a float"),
    ("fleet.alone_after_hours", "-1", "is out of range"),
    ("fleet.silent_hours", "0", "is out of range"),
    ("fleet.key_file", '"fleet.key"', "is not absolute"),
    ("fleet.peers", '"peers"', "is not absolute"),
    ("log.level", '"LOUD"', "is not one of these words"),
    ("log.json", '"no"', "is a string; expected true or false"),
]


@pytest.mark.parametrize(("key", "value", "reason"), IMPOSSIBLE)
def test_an_impossible_value_is_refused(file: Path, key: str, value: str, reason: str) -> None:
    """One line: the file, the key, what is wrong, and what the key takes."""
    section, _, name = key.partition(".")
    file.write_text(f"[{section}]\n{name} = {value}\n")

    [problem] = check(file)

    assert problem.startswith(f"{file}: {key}: ")
    assert reason in problem
    assert problem.endswith(f"; expected {declared()[key].expected}")
    assert problem.isprintable()


def test_every_setting_refuses_something() -> None:
    """No key takes just anything, and the table above has them all (paths share one kind)."""
    tried = {key for key, _, _ in IMPOSSIBLE}

    assert set() == {key for key in declared() if not key.startswith("paths.")} - tried


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("track.package", '"@scope/t3.x"'),
        ("track.tag", '"latest"'),
        ("track.tag", '"very-good"'),
        ("track.pin", '"0.0.25-nightly.20260608.497"'),
        ("track.min_age_hours", "0.5"),
        ("serve.unit", '"{user}-t3.service"'),
        ("serve.base_dir", '"/srv/{user}/t3"'),
        ("serve.base_dir", '"{home}"'),
        ("serve.agent_processes", "[]"),
        ("dispatch.url", '"https://dispatch.example.org"'),
        ("dispatch.url", '"http://[::1]:3780"'),
        ("dispatch.log", '""'),
        ("dispatch.log", '"/var/log/dispatch.log"'),
        ("dispatch.log", '"journal:t3@1.service"'),
        ("gate.seeds", '"largest"'),
        ("gate.seeds", '["anna", "_bert-2"]'),
        ("deferral.quiet_seconds", "0"),
        ("deferral.window", '""'),
        ("deferral.window", '"22:00-05:00"'),
        ("schedule.bump", '"*/15 1-5 * JAN MON-FRI"'),
        ("schedule.bump", '"0 4 29 2 *"'),
        ("schedule.latest", '""'),
        ("schedule.timezone", '"Europe/Vienna"'),
        ("bake.minutes", "0"),
        ("queue.url", '"redis://localhost"'),
        ("queue.url", '"rediss://user:pw@[::1]:6380/2"'),
        ("queue.url", '"unix:///run/redis.sock?db=1"'),
        ("queue.url", '"unix://:pw@/run/redis.sock"'),
        ("queue.url", '"redis+sentinel://u:pw@h1:26379,[::1]:26380/mymaster/1?sentinel_password=x"'),
        ("queue.url", '"rediss+sentinel://h1/mymaster?ssl_ca_certs=/etc/ssl/ca.pem"'),
        ("npm.command", '"/opt/node/bin/npm"'),
        ("fleet.url", '"unix://devvm1:secret@/run/redis.sock"'),
        ("fleet.url", '"rediss://devvm1:secret@redis.example:6380/1"'),
        ("fleet.url", '"https://lock.example/fleet"'),
        ("fleet.host", '"devvm-1.example"'),
        ("log.json", "true"),
    ],
)
def test_a_possible_value_is_kept_as_it_is(file: Path, key: str, value: str) -> None:
    """What can work is taken, unchanged."""
    section, _, name = key.partition(".")
    file.write_text(f"[{section}]\n{name} = {value}\n")

    settings = load(file, {})

    expected = tomllib.loads(f"value = {value}")["value"]
    assert expected == getattr(getattr(settings, section), name)
    assert f"file {file}" == settings.sources[key]


def test_a_slash_after_the_dispatch_is_forgiven() -> None:
    """People paste addresses with a slash; endpoints begin with one, so it goes."""
    settings = load(None, {"T3FLOW_DISPATCH__URL": "http://127.0.0.1:3780/"})

    assert "http://127.0.0.1:3780" == settings.dispatch.url


def test_all_problems_come_at_once(file: Path) -> None:
    """Unknown sections and keys, wrong types, impossible values, variables: one report, one line each."""
    file.write_text(
        'nonsense = 1\ngate = 3\n[track]\npckage = "x"\nquiet_seconds = 4\npin = "latest"\n'
        '[paths]\n"launch\\ner" = 1\n[dipatch]\nurl = 1\n[backup]\nkeep = "6"\n'
    )
    environ = {
        "T3FLOW_GATE__PORT": "99999",
        "T3FLOW_GAT__PORT": "1",
        "T3FLOW_GATE__port": "1",
        "T3FLOW_QQQQQQQQ__ZZZZZZZZZZZZ": "1",
        "T3_MIGRATE_QUIET_SECONDS": "soon",
    }

    found = _problems(file, environ)

    expected = [
        f"{file}: nonsense: unknown section",
        f"{file}: gate: is an integer; expected a table: [gate] and keys below it",
        f"{file}: track.pckage: unknown key; did you mean package?",
        f"{file}: track.quiet_seconds: unknown key; did you mean deferral.quiet_seconds?",
        f'{file}: track.pin: "latest" is not an exact version; expected {declared()["track.pin"].expected}',
        f'{file}: paths."launch\\ner": unknown key; did you mean launcher?',
        f"{file}: dipatch: unknown section; did you mean dispatch?",
        f'{file}: backup.keep: "6" is a string; expected an integer from 1 to 1000000',
        "T3FLOW_GATE__PORT: gate.port: 99999 is out of range; expected an integer from 1024 to 65535",
        "T3FLOW_GAT__PORT: unknown setting; did you mean T3FLOW_GATE__PORT?",
        "T3FLOW_GATE__port: unknown setting; did you mean T3FLOW_GATE__PORT?",
        "T3FLOW_QQQQQQQQ__ZZZZZZZZZZZZ: unknown setting",
        'T3_MIGRATE_QUIET_SECONDS: deferral.quiet_seconds: "soon" is a string; expected seconds from 0 to a year',
    ]
    assert sorted(expected) == sorted(found)


def test_a_pin_that_is_a_tag_names_the_variable() -> None:
    """`T3_PIN=latest` is a clear error."""
    [problem] = _problems(None, {"T3_PIN": "latest"})

    assert problem.startswith('T3_PIN: track.pin: "latest" is not an exact version')


def test_a_bad_value_is_reported_though_another_overrides_it(file: Path) -> None:
    """The file is wrong whatever the environment says."""
    file.write_text("[gate]\nport = 1\n")

    assert 1 == len(_problems(file, {"T3FLOW_GATE__PORT": "4000"}))


def test_the_environment_is_stronger_than_the_file(file: Path) -> None:
    """T3FLOW_… over the shell tracker's names over the file, each with its source."""
    file.write_text('[track]\ntag = "one"\npin = "1.0.0"\npackage = "p"\n[deferral]\nquiet_seconds = 1\n')
    environ = {
        "T3_TRACK": "two",
        "T3FLOW_TRACK__TAG": "three",
        "T3_PIN": "2.0.0",
        "T3_MIGRATE_QUIET_SECONDS": "2.5",
    }

    settings = load(file, environ)

    assert ("three", "2.0.0", "p", 2.5) == (
        settings.track.tag,
        settings.track.pin,
        settings.track.package,
        settings.deferral.quiet_seconds,
    )
    assert {
        "track.tag": "environment T3FLOW_TRACK__TAG",
        "track.pin": "environment T3_PIN",
        "deferral.quiet_seconds": "environment T3_MIGRATE_QUIET_SECONDS",
        "track.package": f"file {file}",
        "gate.port": "default",
    }.items() <= settings.sources.items()


def test_an_empty_variable_unsets_only_by_the_new_name(file: Path) -> None:
    """An empty T3_PIN is as none, as it was before; an empty T3FLOW_TRACK__PIN says: no pin."""
    file.write_text('[track]\npin = "1.0.0"\n')

    assert "1.0.0" == load(file, {"T3_PIN": "", "T3_TRACK": ""}).track.pin
    assert "" == load(file, {"T3FLOW_TRACK__PIN": ""}).track.pin


@pytest.mark.parametrize(
    ("variable", "text", "key", "expected"),
    [
        ("T3FLOW_TRACK__TAG", "nightly", "track.tag", "nightly"),
        ("T3FLOW_TRACK__TAG", '"nightly"', "track.tag", "nightly"),
        ("T3FLOW_TRACK__PIN", "0.0.25", "track.pin", "0.0.25"),
        ("T3FLOW_PATHS__STATE_DIR", "/srv/x", "paths.state_dir", "/srv/x"),
        ("T3FLOW_CANARY__ORDER", "map_order", "canary.order", "map_order"),
        ("T3FLOW_GATE__PORT", "4000", "gate.port", 4000),
        ("T3FLOW_LOG__JSON", "true", "log.json", True),
        ("T3FLOW_GATE__SEEDS", "largest", "gate.seeds", "largest"),
        ("T3FLOW_GATE__SEEDS", '["anna", "bert"]', "gate.seeds", ["anna", "bert"]),
        ("T3FLOW_SERVE__AGENT_PROCESSES", '["claude"]', "serve.agent_processes", ["claude"]),
        ("T3FLOW_DEFERRAL__WINDOW", "", "deferral.window", ""),
    ],
)
def test_a_variable_takes_plain_texts_and_toml(variable: str, text: str, key: str, expected: Any) -> None:
    """Texts need no quotes in the environment; numbers, truth values and lists are written as in the file."""
    described = {setting.key: setting for setting in describe(load(None, {variable: text}))}

    assert (key, expected, f"environment {variable}") == described[key]


@pytest.mark.parametrize("text", ["4000\nother = 1", "4000 # comment\n[x]", "[", "tru", "", "1" * 5000])
def test_a_variable_is_one_value(text: str) -> None:
    """A variable cannot smuggle in more than its own value, and nonsense is refused in one line."""
    [problem] = _problems(None, {"T3FLOW_GATE__PORT": text})

    assert problem.startswith("T3FLOW_GATE__PORT: gate.port: ")
    assert problem.isprintable()


def test_other_variables_are_left_alone() -> None:
    """Names without a double underscore are not settings, nor are those of other programs."""
    load(
        None,
        {
            "T3FLOW_SANDBOX_USER": "x",
            "T3FLOW_TEST_SEED": "1",
            "T3_PORT": "1",
            "OTHER__T3FLOW": "1",
            "PATH": "",
        },
    )


def test_windows_and_their_ends() -> None:
    """A window is a pair of times of day, over midnight too; none is any time."""
    assert (time(1, 0), time(5, 40)) == window_times("01:00-05:40")
    assert (time(22, 0), time(5, 0)) == window_times("22:00-05:00")
    assert window_times("") is None


@pytest.mark.parametrize(
    ("url", "expected"),
    [
        ("sqlite:///var/lib/t3flow/queue.db", "sqlite:///var/lib/t3flow/queue.db"),
        ("redis://localhost:6379/1", "redis://localhost:6379/1"),
        ("redis://:pw@localhost", "redis://:***@localhost"),
        ("redis://user:pw@localhost", "redis://user:***@localhost"),
        ("redis://pw@localhost", "redis://***@localhost"),
        ("redis://:p@w/x#y?z@localhost", "redis://:***@localhost"),
        ("unix://:pw@/run/redis.sock?db=1", "unix://:***@/run/redis.sock?db=1"),
        ("redis://localhost?db=1&password=pw", "redis://localhost?db=1&password=***"),
        ("redis://localhost?Password=pw&db=1", "redis://localhost?Password=***&db=1"),
        (":pw@localhost", ":***@localhost"),
        ("redis:/:pw@localhost", "redis:***@localhost"),
        ("user:p://w@localhost", "user:***@localhost"),
    ],
)
def test_passwords_are_masked(url: str, expected: str) -> None:
    """Wherever a password may stand in the URL, right or wrong, it is not shown."""
    assert expected == mask(url)


_passwords = st.text(st.sampled_from("aZ9@:/?#%&=[]\"'\\ \n~é"), max_size=8).map(lambda text: f"SECRET{text}SECRET")


@given(
    password=_passwords,
    form=st.sampled_from(["redis://:{}@localhost/0", "rediss://u:{}@h:1", "unix://:{}@/s", "amqp://u:{}@h", "u:{}@h"]),
    quoted=st.booleans(),
)
def test_no_password_is_ever_shown(password: str, form: str, quoted: bool) -> None:
    """Neither the list of settings nor an error shows a password, however odd it is."""
    environ = {"T3FLOW_QUEUE__URL": form.format(quote(password, safe="") if quoted else password)}
    try:
        shown = str(describe(load(None, environ)))
    except SettingsError as error:
        shown = str(error)

    assert "SECRET" not in shown
    assert "***" in shown


@pytest.mark.parametrize(
    "content", ['queue = "redis://:pw@h"', '[queue]\nulr = "redis://:pw@h"', '[queue]\nurl = ["redis://:pw@h"]']
)
def test_no_password_is_shown_of_a_key_in_the_wrong_place(file: Path, content: str) -> None:
    """A section given as a string, a misspelled key, a wrong type."""
    file.write_text(content)
    [problem] = check(file)
    assert "pw" not in problem


@given(
    secret=_passwords,
    form=st.sampled_from(
        ["https://h/{}", "https://u{}:p@h:8", "https://h:8/x?a={}", "http://u:{}@h/x", "http://{}@h", "https://h/a#{}", "https://{}/y@h/", "ftp://h/{}", "{}"]
    ),
    key=st.sampled_from(["PING_URL", "WEBHOOK_URL", "URLS"]),
    quoted=st.booleans(),
)  # fmt: skip
def test_no_url_of_a_channel_is_ever_shown(secret: str, form: str, key: str, quoted: bool) -> None:
    """Only its scheme, and its host where that cannot be a token."""
    url = form.format(quote(secret, safe="") if quoted else secret)
    try:
        shown = str(describe(load(None, {f"T3FLOW_NOTIFY__{key}": json.dumps([url]) if key == "URLS" else url})))
    except SettingsError as error:
        shown = str(error)
    assert "SECRET" not in shown
    assert "***" in shown


@pytest.mark.parametrize("url", ["slack://SECRET/B/C", "tgram://SECRET", "mailto://SECRET:SECRET@gmail.com?to=SECRET"])
def test_of_a_url_of_apprise_only_the_scheme_is_shown(file: Path, url: str) -> None:
    """Also where the array has a fault, or is none."""
    file.write_text(f'[notify]\nurls = ["{url}"]\n')
    shown = {each.key: each.value for each in describe(load(file, {}))}
    assert shown["notify.urls"] == [f"{url.partition('://')[0]}://***"]
    for content in (f'["{url}", 3]', f'["{url}", "{url}"]', f'"{url}"', f'{{a = "{url}"}}', f'[["{url}"]]'):
        file.write_text(f"[notify]\nurls = {content}\n")
        assert "SECRET" not in " ".join(check(file))


_toml_values = st.recursive(
    st.one_of(
        st.text(max_size=30),
        st.integers(),
        st.floats(),
        st.booleans(),
        st.times(),
        st.datetimes(),
        st.sampled_from(
            [
                "all",
                "0 4 * * *",
                "L L L L L",
                "{home}",
                "{",
                "http://[",
                "redis://h:x",
                "1-2",
                "1#1/2 * * * *",
            ]
        ),
    ),
    lambda inner: st.one_of(st.lists(inner, max_size=3), st.dictionaries(st.text(max_size=5), inner, max_size=2)),
    max_leaves=4,
)


@hypothesis_settings(deadline=None, max_examples=1500)
@given(key=st.sampled_from(sorted(declared())), value=_toml_values)
def test_any_value_is_taken_or_refused_in_one_line(key: str, value: Any) -> None:
    """Whatever TOML can hold at a key, the answer is settings or one printable line, never another error."""
    section, _, name = key.partition(".")

    _, found = t3flow.settings.load._accept({section: {name: value}}, "FILE")

    assert len(found) <= 1
    for problem in found:
        assert problem.startswith(f"FILE: {key}: ")
        assert problem.isprintable()


@hypothesis_settings(deadline=None, max_examples=800)
@given(
    key=st.sampled_from(sorted(declared())),
    text=st.one_of(
        st.text(max_size=30),
        st.text("0123456789*/-,#LW ", max_size=20),
        st.text("'\"[]{}\n=#1a", max_size=12),
    ),
)
@example(key="serve.unit", text="{\x1f}}}")
def test_any_variable_is_taken_or_refused_in_one_line(key: str, text: str) -> None:
    """The same for texts from the environment."""
    variable = f"T3FLOW_{key.upper().replace('.', '__')}"
    problems: list[str] = []
    try:
        source = load(None, {variable: text}).sources[key]
    except SettingsError as error:
        source, problems = f"environment {variable}", error.problems

    assert f"environment {variable}" == source
    assert len(problems) <= 1
    for problem in problems:
        assert problem.startswith(f"{variable}: {key}: ")
        assert problem.isprintable()
