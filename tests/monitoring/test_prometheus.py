"""A real Prometheus and a real node exporter beside a real consumer, during real runs that go well and wrong."""

import json
import re
import subprocess
import sys
import time
import urllib.parse
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from datetime import datetime
from pathlib import Path
from typing import Any

import yaml
from conftest import FIRST, LEVEL30
from promtools import DEPLOY, RULES, program, rules
from scenes import LATER, NEXT, bump, is_busy, results
from test_port_taken import INTRUDER

from t3flow.deferrals import blockers
from t3flow.engine.journal import append_event
from t3flow.engine.runs import new_run
from t3flow.host import http_client
from t3flow.sandbox.host import Sandbox, free_port

SETTINGS = """
[metrics]
listen = "127.0.0.1:{port}"
textfile = "{top}/node/t3flow.prom"
"""
NODE = ["--collector.disable-defaults", "--collector.textfile"]
FAILING = {"fault": "pairing_500", "when": {"not_scratch": True, "user": "ken"}}

OLDER = {"T3PairFallbackHigh"}
"""These versions of the stand-in pair by the older endpoint."""


class Prometheus:
    """A Prometheus that scrapes the consumer, and a node exporter with its textfile, each second."""

    def __init__(self, top: Path, scraped: int, node: int, port: int) -> None:
        self.port = port
        jobs = {"t3flow": scraped, "node": node}
        config = {
            "global": {"scrape_interval": "1s", "evaluation_interval": "1s"},
            "rule_files": [str(RULES)],
            "scrape_configs": [
                {"job_name": name, "static_configs": [{"targets": [f"127.0.0.1:{number}"]}]}
                for name, number in jobs.items()
            ],
        }
        (top / "prometheus.yml").write_text(json.dumps(config))

    def get(self, path: str) -> Any:
        answer = http_client.request(f"http://127.0.0.1:{self.port}/api/v1/{path}", timeout_seconds=10)
        found = answer.json_object()
        assert found is not None, answer
        assert found["status"] == "success", found
        return found["data"]

    def query(self, expression: str) -> list[dict[str, Any]]:
        """Return the series of an instant query, each with its labels and value."""
        found: list[dict[str, Any]] = self.get(f"query?query={urllib.parse.quote(expression)}")["result"]
        return found

    def value(self, expression: str) -> float | None:
        """Return the value of the only series, or None."""
        found = self.query(expression)
        assert len(found) <= 1, found
        return float(found[0]["value"][1]) if found else None


@contextmanager
def started(top: Path, *commands: list[str]) -> Iterator[None]:
    """Run programs in the background."""
    children = []
    try:
        for number, words in enumerate(commands):
            with (top / f"program-{number}.log").open("wb") as log:
                children.append(subprocess.Popen(words, stdout=log, stderr=log, cwd=top))
        yield
    finally:
        for child in children:
            child.kill()
            child.wait()


def dashboard_queries() -> list[str]:
    """Return every query of the dashboard, with its variables filled in."""
    dashboard = json.loads((DEPLOY / "grafana/t3flow.json").read_text())
    found = [target["expr"] for panel in dashboard["panels"] for target in panel.get("targets", [])]
    return [expression.replace("$instance", ".*") for expression in found]


def names_in(expression: str) -> set[str]:
    """Return the metrics in an expression."""
    return set(re.findall(r"\bt3flow_\w+", expression))


def loki_fires(expression: str, lines: dict[str, list[tuple[float, str]]], now: float) -> bool:
    """Evaluate a rule of deploy/alerts.yml over lines: unit → (time, text)."""
    shape = re.fullmatch(
        r"(?:sum\(count_over_time\(|(absent_over_time\())\{unit=\"([\w.-]+)\"\} \|~ `([^`]+)` \[(\d+)([mh])\]\)(?:\) > (\d+))?",
        expression,
    )
    assert shape, expression
    absent, unit, pattern, number, letter, threshold = shape.groups()
    seconds = int(number) * {"m": 60, "h": 3600}[letter]
    count = sum(bool(re.search(pattern, text)) for at, text in lines[unit] if now - seconds < at <= now)
    return count == 0 if absent else count > int(threshold)


def loki_alerts(box: Sandbox, later_seconds: float = 0.0) -> set[str]:
    """Return the alerts for Loki that fire on what consumer and dispatch have logged."""
    text = (box.top / "log/consumer.log").read_text()
    stamped = re.findall(r"^(\d{4}-\d\d-\d\d \d\d:\d\d:\d\d\.\d{3}) (.*)$", text, re.MULTILINE)
    dispatched = (box.top / "log/dispatch.log").read_text().splitlines()
    lines = {
        "t3flow.service": [(datetime.fromisoformat(at).timestamp(), line) for at, line in stamped],
        "t3-dispatch.service": [(time.time(), line) for line in dispatched],  # in a file they have no time
    }
    groups = yaml.safe_load((DEPLOY / "alerts.yml").read_text())["groups"]
    now = time.time() + later_seconds
    return {rule["alert"] for group in groups for rule in group["rules"] if loki_fires(rule["expr"], lines, now)}


def lose_an_undo(box: Sandbox) -> str:
    """Journal a run of another release, with a change that this one cannot undo. Return its id."""
    journal = box.journal
    run = new_run(journal, "of_another_release", {}) or ""
    with journal.transaction() as connection:
        data = {"args": ["ada"], "kwargs": {}, "undo": "unknown", "takes": ["user"]}
        append_event(connection, run, "started", "change_something", 1, data)
    return run


def test_a_real_prometheus_sees_real_runs(make_box: Callable[..., Sandbox]) -> None:
    """Every query of the dashboard has data, every metric in the alerts too; the alerts on what went wrong fire, and the others do not.

    So do those for Loki, on the lines that consumer and dispatch wrote. A kill of the consumer takes no counts away.
    """
    programs = [program(name) for name in ("prometheus", "prometheus-node-exporter")]
    scraped, node = free_port(), free_port()
    box = make_box(["ada", "grace", "ken"], start=False, extra=SETTINGS.format(port=scraped, top="{top}"))
    (box.top / "node").mkdir()
    box.config.write_text(box.config.read_text().replace("{top}", str(box.top)))
    prometheus = Prometheus(box.top, scraped, node, free_port())
    data = [
        "--config.file=prometheus.yml",
        "--storage.tsdb.path=tsdb",
        f"--web.listen-address=127.0.0.1:{prometheus.port}",
    ]
    folder = f"--collector.textfile.directory={box.top}/node"
    box.start(FIRST, dict.fromkeys(box.users, LEVEL30), {"schema_level": 30})
    box.start_consumer()
    with started(
        box.top,
        [programs[0], *data],
        [programs[1], *NODE, folder, f"--web.listen-address=127.0.0.1:{node}"],
    ):
        goes_well(box, prometheus)
        goes_wrong(box, prometheus)


def goes_well(box: Sandbox, prometheus: Prometheus) -> None:
    """Bump with a busy user."""
    is_busy(box, "grace")
    box.publish(NEXT, {"schema_level": 30})
    document = bump(box)
    assert results(document) == {"ada": "restarted", "grace": "deferred", "ken": "restarted"}, document
    box.until(lambda: prometheus.value('t3flow_runs_total{job="t3flow",outcome="updated"}') == 1.0, "it is scraped", 30)
    assert loki_alerts(box) == OLDER
    assert loki_alerts(box, 25 * 3600) == set()
    assert loki_alerts(box, 27 * 3600) == {"T3FlowNoCheck"}
    box.until(
        lambda: prometheus.query('t3flow_user_version_info{job="t3flow",user="ada"}')[0]["metric"]["version"] == NEXT,
        "the new version is seen",
        30,
    )
    [waits] = prometheus.query('t3flow_user_deferred_since_timestamp_seconds{job="t3flow"}')
    assert (waits["metric"]["user"], waits["metric"]["reason"]) == ("grace", "active_turn")
    assert prometheus.query('ALERTS{alertstate="firing", job="t3flow"}') == []
    downtime = sum(entry["downtime_s"] or 0 for entry in document["users"].values())
    seen = prometheus.value('t3flow_restart_downtime_seconds_sum{job="t3flow"}')
    assert seen is not None
    assert abs(seen - downtime) < 0.01


def goes_wrong(box: Sandbox, prometheus: Prometheus) -> None:
    """Roll back a bump, and meet a port that is taken, an undo that is unknown, people who cannot pair, and a killed consumer."""
    words = [sys.executable, "-c", INTRUDER, "listens", str(box.ports["ada"]), str(box.top / "absent")]
    intruder = subprocess.Popen(words, stdout=subprocess.DEVNULL)
    try:
        box.publish(LATER, {"schema_level": 30, "rules": [FAILING]})
        trouble(box, prometheus)
    finally:
        intruder.kill()
        intruder.wait()


def trouble(box: Sandbox, prometheus: Prometheus) -> None:
    document = bump(box)
    assert document["outcome"] == "rolled_back", document
    lost = lose_an_undo(box)
    for _ in range(3):
        blockers.note(box.journal, "grace", blockers.DRAIN, "the drain ended in an error")
    with ThreadPoolExecutor(5) as pool:  # a person, whose browser meets the port that another program has
        list(pool.map(lambda _: browse(box, "ada"), range(5)))
    before = prometheus.value('t3flow_runs_total{job="t3flow",outcome="updated"}')
    box.kill("consumer")
    box.start_consumer()  # which counts, and writes the textfile, at once
    box.until(lambda: box.journal.run(lost).status == "failed", "the run of another release is unwound", 30)
    expect_all_data(box, prometheus)
    assert prometheus.value('t3flow_runs_total{job="t3flow",outcome="updated"}') == before
    expect_alerts(box, prometheus)


def browse(box: Sandbox, user: str) -> None:
    header = {box.settings.dispatch.user_header: f"{user}@example.test"}
    http_client.request(f"{box.settings.dispatch.url}/", headers=header, timeout_seconds=30)


def expect_all_data(box: Sandbox, prometheus: Prometheus) -> None:
    """Dashboard and alerts. This host is in no fleet, whose metrics tests/fleet/test_two_hosts.py reads."""
    wanted = {name for rule in rules() for name in names_in(rule["expr"]) if not name.startswith("t3flow_fleet_")}
    box.until(
        lambda: all(prometheus.query(f'{name}{{job="t3flow"}}') for name in wanted),
        "every metric of the alerts has data",
        30,
    )
    queries = dashboard_queries()
    assert len(queries) > 30
    box.until(lambda: all(map(prometheus.query, queries)), "every query of the dashboard has data", 30)
    textfile = prometheus.query('t3flow_build_info{job="node"}')
    assert [each["value"][1] for each in textfile] == ["1"]
    assert prometheus.value("node_textfile_scrape_error") == 0.0
    known = set(prometheus.get("label/__name__/values"))
    assert names_in(" ".join(queries)) <= known
    for job in ("t3flow", "node"):
        assert prometheus.value(f'scrape_samples_scraped{{job="{job}"}}') > 100  # type: ignore[operator]


def expect_alerts(box: Sandbox, prometheus: Prometheus) -> None:
    """Check what Prometheus says of its rules, and the alerts."""
    expected = {
        "T3AutoUpdateRolledBack",
        "T3AutoUpdateRollbackFailed",
        "T3AutoUpdateFrozen",
        "T3PortTaken",
        "T3DeferralStuck",
    }
    firing = 'ALERTS{alertstate="firing", job="t3flow"}'
    box.until(
        lambda: {each["metric"]["alertname"] for each in prometheus.query(firing)} == expected, "the alerts fire", 30
    )
    owed = prometheus.query('ALERTS{alertname="T3PortTaken", job="t3flow"}')
    assert [each["metric"]["user"] for each in owed] == ["ada"]
    judged = [rule for group in prometheus.get("rules")["groups"] for rule in group["rules"]]
    assert {rule["name"]: rule["health"] for rule in judged} == dict.fromkeys((rule["alert"] for rule in rules()), "ok")
    in_the_log = expected - {"T3DeferralStuck"} | {"T3PairingBroken"}
    assert loki_alerts(box) == in_the_log | OLDER, (box.top / "log/consumer.log").read_text()[-3000:]
    assert loki_alerts(box, 11 * 3600) == in_the_log - {"T3PairingBroken"}
    assert loki_alerts(box, 13 * 3600) == {"T3AutoUpdateFrozen"}
