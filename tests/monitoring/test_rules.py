"""The alert rules for Prometheus in its own promtool: each with cases in which it must fire, and cases in which it must not."""

import json
import re
from pathlib import Path
from typing import Any, NamedTuple

import pytest
import yaml
from promtools import DEPLOY, RULES, program, rules, run

HOUR = 60
"""Minutes. In a case, time 0 is the epoch, and each series has a sample a minute."""
HOST = 'instance="devvm:9464", job="t3flow"'


class Case(NamedTuple):
    """Series (name and labels → values), at which minute to look, and the labels of the alerts that fire, beside the host's."""

    title: str
    series: dict[str, str]
    minute: int
    fires: list[dict[str, str]]
    value: str = ""


YES: list[dict[str, str]] = [{}]
NO: list[dict[str, str]] = []
ADA = [{"user": "ada"}]
FAILURES = "t3flow_dispatch_pairing_failures_total"
FALLBACKS = "t3flow_dispatch_pairing_fallbacks_total"
ENDED = 't3flow_run_end_timestamp_seconds{workflow="bump",outcome="gate_inconclusive"}'
CHECK, SINCE = "t3flow_last_check_timestamp_seconds", "t3flow_counting_since_timestamp_seconds"
BEAT, INFO, UP = "t3flow_heartbeat_timestamp_seconds", 't3flow_build_info{version="1"}', "up"
FREE, NEEDED = 't3flow_disk_free_bytes{what="backups"}', "t3flow_next_backup_bytes"
OLD = 't3flow_problem{problem="deferral_old",user="ada"}'
BLOCKED = 't3flow_user_blocked_since_timestamp_seconds{user="ada",kind="drain"}'
ALIVE = {INFO: "1x2000", UP: "1x2000", BEAT: "0+60x2000"}
SILENT_A, SILENT_B = (f't3flow_fleet_host_silent{{host="{host}"}}' for host in ("devvm1", "devvm2"))
CASES: dict[str, list[Case]] = {
    "T3FleetStuck": [
        Case("stuck for 20 minutes", {"t3flow_fleet_stuck": "0x10 1x30"}, 31, YES),
        Case("stuck for 10 minutes", {"t3flow_fleet_stuck": "0x10 1x30"}, 21, NO),
        Case("it went on", {"t3flow_fleet_stuck": "1x30 0x30"}, 40, NO),
        Case("no fleet", ALIVE, 60, NO),
    ],
    "T3FleetUnreachable": [
        Case("for 70 minutes", {"t3flow_fleet_up": "1x10 0x100"}, 81, YES),
        Case("for 50 minutes", {"t3flow_fleet_up": "1x10 0x100"}, 60, NO),
        Case("no fleet", ALIVE, 90, NO),
    ],
    "T3FleetHostSilent": [
        Case("one of two", {SILENT_A: "0x10 1x30", SILENT_B: "0x40"}, 31, [{"host": "devvm1"}]),
        Case("for 10 minutes", {SILENT_A: "0x10 1x30"}, 20, NO),
        Case("it is back", {SILENT_A: "1x30 0x30"}, 40, NO),
    ],
    "T3FleetRecordsDropped": [
        Case(
            "a forged record",
            {'t3flow_problem{problem="fleet_records",user=""}': "_x10 1x20"},
            11,
            [{"problem": "fleet_records"}],
        ),
        Case("another problem", {'t3flow_problem{problem="fleet_stuck",user=""}': "1x20"}, 11, NO),
    ],
    "T3PairingBroken": [
        Case("4 failures in 10 minutes", {FAILURES: "5x10 6 7 8 9x20"}, 15, YES),
        Case("3 failures in 10 minutes", {FAILURES: "5x10 6 7 8x20"}, 15, NO),
        Case("5 failures, one in 10 minutes", {FAILURES: "0x10 1x9 2x9 3x9 4x9 5x9"}, 55, NO),
        Case("many failures, an hour ago", {FAILURES: "0x10 50x80"}, 80, NO),
        Case("counting began anew", {FAILURES: "500x10 0x20"}, 15, NO),
    ],
    "T3PairFallbackHigh": [
        Case("one fallback", {FALLBACKS: "7x40 8x60"}, 60, YES),
        Case("the last fallback was 31 minutes ago", {FALLBACKS: "7x40 8x60"}, 72, NO),
        Case("no fallback", {FALLBACKS: "7x100"}, 60, NO),
    ],
    "T3AutoUpdateRolledBack": [
        Case("11 hours ago", {"t3flow_last_rollback_timestamp_seconds": "3600x1000"}, 12 * HOUR, YES),
        Case("12 hours ago", {"t3flow_last_rollback_timestamp_seconds": "3600x1000"}, 13 * HOUR, NO),
        Case("never", ALIVE, 60, NO),
    ],
    "T3AutoUpdateRollbackFailed": [
        Case("11 hours ago", {"t3flow_last_failed_rollback_timestamp_seconds": "3600x1000"}, 12 * HOUR, YES),
        Case("12 hours ago", {"t3flow_last_failed_rollback_timestamp_seconds": "3600x1000"}, 13 * HOUR, NO),
        Case("a rollback that succeeded", {"t3flow_last_rollback_timestamp_seconds": "3600x1000"}, 2 * HOUR, NO),
    ],
    "T3AutoUpdateFrozen": [
        Case("frozen", {"t3flow_frozen": "0x10 1x10"}, 11, YES),
        Case("frozen for two days", {"t3flow_frozen": "1x3000"}, 2880, YES),
        Case("no longer frozen", {"t3flow_frozen": "1x10 0x10"}, 11, NO),
    ],
    "T3FlowDown": [
        Case("an old textfile", {**ALIVE, BEAT: "0x2000"}, 11, YES),
        Case("a heartbeat 8 minutes ago", {**ALIVE, BEAT: "0x2000"}, 8, NO),
        Case("the HTTP server is away for 11 minutes", {**ALIVE, UP: "1x20 0x100"}, 32, YES),
        Case("the HTTP server is away for 8 minutes", {**ALIVE, UP: "1x20 0x100"}, 29, NO),
        Case("scraping of a host that is down began a minute ago", {INFO: "1x50", UP: "_x30 0x20"}, 31, NO),
        Case("a restart of a minute", {**ALIVE, UP: "1x20 0 1x100"}, 21, NO),
        Case("alive", ALIVE, 30, NO),
    ],
    "T3FlowNoCheck": [
        Case("27 hours ago", {**ALIVE, CHECK: "3600x2000", SINCE: "0x2000"}, 28 * HOUR, YES),
        Case("25 hours ago", {**ALIVE, CHECK: "3600x2000", SINCE: "0x2000"}, 26 * HOUR, NO),
        Case("never, and installed 27 hours ago", {**ALIVE, SINCE: "0x2000"}, 27 * HOUR, YES),
        Case("never, and installed 2 hours ago", {**ALIVE, SINCE: "0x2000"}, 2 * HOUR, NO),
        Case("27 hours ago, but frozen", {CHECK: "3600x2000", "t3flow_frozen": "1x2000"}, 28 * HOUR, NO),
    ],
    "T3JournalDiskFull": [
        Case("1 MB", {'t3flow_disk_free_bytes{what="state"}': "1e6x9"}, 5, [{"what": "state"}]),
        Case("3 MB", {'t3flow_disk_free_bytes{what="state"}': "3e6x9"}, 5, NO),
        Case("another disk", {'t3flow_disk_free_bytes{what="scratch"}': "1x9"}, 5, NO),
    ],
    "T3BackupDiskLow": [
        Case("less than two backups", {FREE: "7516192768x30", NEEDED: "4e9x30"}, 15, YES, "7Gi"),
        Case("more than two backups", {FREE: "9e9x30", NEEDED: "4e9x30"}, 15, NO),
        Case("half a GB", {FREE: "536870912x30", NEEDED: "1e6x30"}, 15, YES, "512Mi"),
        Case("for less than 10 minutes", {FREE: "9e9x10 1e9x9 9e9x9", NEEDED: "4e9x40"}, 18, NO),
    ],
    "T3GateInconclusive": [
        Case("an hour ago", {ENDED: "0x2000"}, HOUR, YES),
        Case(
            "an hour ago, and a success before",
            {ENDED: "600x99", "t3flow_last_success_timestamp_seconds": "5x99"},
            60,
            YES,
        ),
        Case("a success since then", {ENDED: "600x99", "t3flow_last_success_timestamp_seconds": "900x99"}, 60, NO),
        Case("26 hours ago", {ENDED: "0x2000"}, 26 * HOUR, NO),
        Case("another outcome", {ENDED.replace("gate_inconclusive", "gate_failed"): "0x2000"}, HOUR, NO),
    ],
    "T3UserUnpaired": [
        Case(
            "one of two users",
            {
                't3flow_user_pairing_ok{user="ada"}': "1x10 0x10",
                't3flow_user_pairing_ok{user="grace"}': "1x20",
                't3flow_user_managed{user="ada"}': "1x20",
                't3flow_user_managed{user="grace"}': "1x20",
            },
            *(17, ADA),
        ),
        Case(
            "within a restart",
            {'t3flow_user_pairing_ok{user="ada"}': "1x10 0x3 1x9", 't3flow_user_managed{user="ada"}': "1x30"},
            *(13, NO),
        ),
        Case(
            "a user who is not managed",
            {'t3flow_user_pairing_ok{user="ada"}': "0x30", 't3flow_user_managed{user="ada"}': "0x30"},
            *(17, NO),
        ),
    ],
    "T3NoPairing": [
        Case("the dispatch", {'t3flow_problem{problem="dispatch",user=""}': "1x9"}, 5, [{"problem": "dispatch"}]),
        Case("one user", {'t3flow_problem{problem="unpaired",user="ada"}': "1x9"}, 5, NO),
    ],
    "T3UserUnmanaged": [
        Case(
            "for an hour",
            {'t3flow_problem{problem="unmanaged",user="ada"}': "1x99"},
            *(61, [{"user": "ada", "problem": "unmanaged"}]),
        ),
        Case("for half an hour", {'t3flow_problem{problem="unmanaged",user="ada"}': "1x30 _x60"}, 31, NO),
        Case("another problem", {'t3flow_problem{problem="server_down",user="ada"}': "1x99"}, 90, NO),
    ],
    "T3PortTaken": [
        Case(
            "taken",
            {'t3flow_user_start_owed_since_timestamp_seconds{user="ada",reason="port_taken"}': "60x9"},
            *(5, [{"user": "ada", "reason": "port_taken"}]),
        ),
        Case(
            "the service manager refuses",
            {'t3flow_user_start_owed_since_timestamp_seconds{user="ada",reason="not_started"}': "60x9"},
            *(5, NO),
        ),
        Case(
            "free again",
            {'t3flow_user_start_owed_since_timestamp_seconds{user="ada",reason="port_taken"}': "60x9 stale"},
            *(12, NO),
        ),
    ],
    "T3Unknown": [
        Case(
            "a user's t3",
            {'t3flow_problem{problem="unknown_t3",user="ada"}': "1x9"},
            *(5, [{"user": "ada", "problem": "unknown_t3"}]),
        ),
        Case("another problem", {'t3flow_problem{problem="unmanaged",user="ada"}': "1x9"}, 5, NO),
    ],
    "T3DeferralOld": [
        Case("old", {OLD: "1x9"}, 5, [{"user": "ada", "problem": "deferral_old"}]),
        Case("stuck", {OLD: "1x9", BLOCKED: "60x9"}, 5, NO),
        Case(
            "another user is stuck",
            {OLD: "1x9", BLOCKED.replace("ada", "grace"): "60x9"},
            *(5, [{"user": "ada", "problem": "deferral_old"}]),
        ),
        Case(
            "a deferral of today",
            {'t3flow_user_deferred_since_timestamp_seconds{user="ada",reason="window"}': "0x9"},
            5,
            NO,
        ),
    ],
    "T3DeferralStuck": [
        Case("stuck", {BLOCKED: "60x9"}, 5, [{"user": "ada", "kind": "drain"}]),
        Case("old", {OLD: "1x9"}, 5, NO),
    ],
}


def in_host(series: str) -> str:
    """Return a series with the labels that Prometheus adds to what it scrapes."""
    name, _, labels = series.rstrip("}").partition("{")
    return f"{name}{{{', '.join(filter(None, [labels, HOST]))}}}"


def expected(rule: dict[str, Any], case: Case) -> list[dict[str, Any]]:
    """Return the alerts of a case as promtool compares them, with texts as Prometheus fills them in."""
    found = []
    for labels in case.fires:
        on = {"instance": "devvm:9464", "job": "t3flow"}
        text = re.sub(
            r"\{\{ \$labels\.(\w+) \}\}", lambda name, labels=labels: labels[name[1]], rule["annotations"]["summary"]
        )
        text = re.sub(r"\{\{ \$value \| \w+ \}\}", case.value, text)
        found.append(
            {
                "exp_labels": {**rule["labels"], **on, **labels},
                "exp_annotations": {**rule["annotations"], "summary": text},
            }
        )
    return found


def check(folder: Path, rule: dict[str, Any], tests: list[dict[str, Any]]) -> None:
    """Have promtool test a rule. It evaluates each minute of days, so it gets no other rule."""
    (folder / "rule.yml").write_text(json.dumps({"groups": [{"name": "t3flow", "rules": [rule]}]}))
    (folder / "test.yml").write_text(
        json.dumps({"rule_files": ["rule.yml"], "evaluation_interval": "1m", "tests": tests})
    )
    run("promtool", "test", "rules", folder / "test.yml")


def test_the_rules_are_valid() -> None:
    """And so are the examples of a configuration of Prometheus and of Alertmanager."""
    assert f"{len(rules())} rules found" in run("promtool", "check", "rules", RULES)
    run("promtool", "check", "config", DEPLOY / "prometheus/prometheus.yml")
    run("amtool", "check-config", DEPLOY / "prometheus/alertmanager.yml")


@pytest.mark.parametrize("name", [rule["alert"] for rule in rules()])
def test_an_alert_fires_when_it_must_and_not_otherwise(tmp_path: Path, name: str) -> None:
    """Each case in promtool, with labels and texts."""
    [rule] = [rule for rule in rules() if rule["alert"] == name]
    cases = CASES[name]
    assert [case for case in cases if case.fires], "a case in which it must fire"
    assert [case for case in cases if not case.fires], "a case in which it must not"
    tests = [
        {
            "interval": "1m",
            "name": case.title,
            "input_series": [{"series": in_host(series), "values": values} for series, values in case.series.items()],
            "alert_rule_test": [
                {"eval_time": f"{case.minute}m", "alertname": name, "exp_alerts": expected(rule, case)},
            ],
        }
        for case in cases
    ]
    check(tmp_path, rule, tests)


def test_no_host_that_sends_anything_is_an_alert(tmp_path: Path) -> None:
    """T3FlowDown, when nothing is scraped at all: it has no labels of a host."""
    [rule] = [rule for rule in rules() if rule["alert"] == "T3FlowDown"]
    fired = {"exp_labels": rule["labels"], "exp_annotations": rule["annotations"]}
    series = [{"series": f"t3flow_build_info{{{HOST}}}", "values": "1x20 stale"}]
    looks = [
        {"eval_time": f"{at}m", "alertname": "T3FlowDown", "exp_alerts": alerts}
        for at, alerts in ((28, []), (32, [fired]))
    ]
    tests = [{"interval": "1m", "input_series": series, "alert_rule_test": looks}]
    check(tmp_path, rule, tests)


@pytest.mark.parametrize("rule", rules(), ids=lambda rule: rule["alert"])
def test_alertmanager_routes_each_alert_to_slack(rule: dict[str, Any]) -> None:
    """Critical ones to the urgent channel, the others to the quiet one, and what is not t3flow's to neither."""
    config = f"--config.file={DEPLOY / 'prometheus/alertmanager.yml'}"
    severity = rule["labels"]["severity"]
    shown = run("amtool", "config", "routes", "test", config, f"alertname={rule['alert']}", f"severity={severity}")
    assert shown.splitlines()[0] == {"critical": "slack-urgent", "warning": "slack"}[severity]
    other = run("amtool", "config", "routes", "test", config, "alertname=NodeDown", "severity=critical")
    assert other.splitlines()[0] == "nobody"


def test_the_owners_alerts_keep_their_severity() -> None:
    """Two of the five are critical."""
    severities = {rule["alert"]: rule["labels"]["severity"] for rule in rules()}
    assert list(severities)[:5] == [
        "T3PairingBroken",
        "T3PairFallbackHigh",
        "T3AutoUpdateRolledBack",
        "T3AutoUpdateRollbackFailed",
        "T3AutoUpdateFrozen",
    ]
    assert [severities[name] for name in list(severities)[:5]] == [
        "critical",
        "warning",
        "warning",
        "critical",
        "warning",
    ]


def test_the_configuration_names_no_secret() -> None:
    """Slack's address is a secret, and lies in a file of its own."""
    config = yaml.safe_load((DEPLOY / "prometheus/alertmanager.yml").read_text())
    assert "slack_api_url" not in config["global"]
    assert program("amtool")
