"""The names of metrics and alerts: the same in the code, the rules, the dashboard, and the docs."""

import json
import re
from collections.abc import Callable
from pathlib import Path

import pytest
import yaml
from promtools import DEPLOY, TOP, rules
from test_docs import outcomes

from t3flow.host.host import Host
from t3flow.host.records import counters
from t3flow.service.metrics import of_runs
from t3flow.service.metrics.collector import HostCollector
from t3flow.settings.load import Settings
from t3flow.settings.schema import Notify
from t3flow.settings.values import OCCASIONS
from t3flow.state.problems import KINDS
from t3flow.web.acts import ACTIONS
from t3flow.web.app import create_app

PAGE = (TOP / "docs/monitoring.md").read_text()
FIXED = """
t3flow_build_info t3flow_user_version_info t3flow_user_pairing_ok t3flow_user_deferred_since_timestamp_seconds
t3flow_last_check_timestamp_seconds t3flow_last_success_timestamp_seconds t3flow_next_bump_timestamp_seconds t3flow_frozen t3flow_runs_total
t3flow_step_duration_seconds t3flow_restart_downtime_seconds t3flow_pairing_seconds t3flow_snapshot_bytes t3flow_disk_free_bytes
t3flow_queue_dropped_total
"""
"""Dashboards and rules outside of this repository rely on these."""
SUFFIX = re.compile(r"_(bucket|sum|count)$")


def section(heading: str) -> str:
    return PAGE.split(f"\n## {heading}\n")[1].split("\n## ")[0]


@pytest.fixture
def metrics(bare: Callable[..., Host]) -> dict[str, tuple[str, list[str]]]:
    """Every metric: its type and its labels."""
    host = bare()
    counters.install(host.journal)
    found = {}
    for family in HostCollector(host.settings).collect():
        name = f"{family.name}_total" if family.type == "counter" else family.name
        found[name] = (family.type, list(family._labelnames))  # type: ignore[attr-defined]
    return found


Metrics = dict[str, tuple[str, list[str]]]


def test_the_docs_have_every_metric_with_its_type_and_labels(metrics: Metrics) -> None:
    rows = re.findall(r"^\| `(t3flow_\w+)` \| (\w+) \| (.*?) \| (\S.*) \|$", section("Metrics"), re.MULTILINE)
    assert {name: (kind, re.findall(r"`(\w+)`", labels)) for name, kind, labels, _ in rows} == metrics
    assert len(rows) == len(metrics), "each once"


def test_metrics_that_others_rely_on_keep_their_names(metrics: Metrics) -> None:
    assert set(FIXED.split()) <= set(metrics)


def test_names_follow_the_conventions(metrics: Metrics) -> None:
    """Base units, versions in labels of _info metrics alone, and times as timestamps."""
    for name, (kind, labels) in metrics.items():
        assert name.endswith("_info") == ("version" in labels), name
        assert name.endswith("_total") == (kind == "counter"), name
        assert not re.search(r"_(ms|milliseconds|minutes|hours|days|kb|mb|percent)(_|$)", name), name
        assert not {"run", "reason_text", "path", "pid", "id"} & set(labels), f"{name} has a label without bounds"


@pytest.mark.parametrize("file", ["prometheus/t3flow.rules.yml", "grafana/t3flow.json"])
def test_rules_and_dashboard_use_metrics_that_exist(metrics: Metrics, file: str) -> None:
    used = set(re.findall(r"\bt3flow_\w+", (DEPLOY / file).read_text()))
    assert used
    assert [] == [name for name in used if name not in metrics and SUFFIX.sub("", name) not in metrics]


def test_docs_name_no_metric_that_is_not_there(metrics: Metrics) -> None:
    for page in TOP.glob("docs/*.md"):
        used = set(re.findall(r"\bt3flow_[a-z_]+\b", page.read_text()))
        assert [] == [name for name in used if name not in metrics and SUFFIX.sub("", name) not in metrics], page


def test_the_docs_have_every_alert_with_its_severity_and_source() -> None:
    rows = re.findall(
        r"^\| \[`(\w+)`\]\(runbook\.md#(\w+)\) \| (\w+) \| \S.* \| (yes|no) \|$", section("Alerts"), re.MULTILINE
    )
    loki = {rule["alert"]: rule for group in groups("alerts.yml") for rule in group}
    assert [(name, severity) for name, _, severity, _ in rows] == [
        (rule["alert"], rule["labels"]["severity"]) for rule in rules()
    ]
    assert [(name, link) for name, link, _, _ in rows] == [(name, name.lower()) for name, *_ in rows]
    assert {name for name, _, _, has in rows if has == "yes"} == set(loki)
    for rule in rules():
        if same := loki.get(rule["alert"]):
            assert (same["labels"], same["annotations"]["runbook_url"]) == (
                rule["labels"],
                rule["annotations"]["runbook_url"],
            )


def groups(file: str) -> list[list[dict[str, dict[str, str]]]]:
    return [group["rules"] for group in yaml.safe_load((DEPLOY / file).read_text())["groups"]]


def test_each_outcome_of_a_bump_counts_from_the_start() -> None:
    """Prometheus sees no increase from nothing to 1."""
    assert set(of_runs.BUMP_OUTCOMES) == set(outcomes()) - {"done"}


def test_the_dashboard_is_one_that_grafana_imports() -> None:
    """Panels within the 24 columns, without overlaps, each with a title, a unit, and a data source that can be chosen."""
    dashboard = json.loads((DEPLOY / "grafana/t3flow.json").read_text())
    taken: set[tuple[int, int]] = set()
    for panel in dashboard["panels"]:
        place = panel["gridPos"]
        cells = {
            (x, y)
            for x in range(place["x"], place["x"] + place["w"])
            for y in range(place["y"], place["y"] + place["h"])
        }
        assert not cells & taken, panel["title"]
        assert place["x"] + place["w"] <= 24
        taken |= cells
        assert panel["title"]
        for target in panel.get("targets", []):
            assert target["datasource"]["uid"] == panel["datasource"]["uid"] == "${datasource}"
            assert 'instance=~"$instance"' in target["expr"]
    assert len({panel["id"] for panel in dashboard["panels"]}) == len(dashboard["panels"])
    assert Path(DEPLOY / "grafana/t3flow.json").stat().st_size < 100_000


def test_the_docs_have_every_kind_of_problem_with_its_meaning() -> None:
    rows = re.findall(r"^\| `(\w+)` \| (.*) \|$", section("Problems and status"), re.MULTILINE)
    assert dict(rows) == KINDS
    assert [key for key, _ in rows] == list(KINDS), "the most urgent first"


def test_the_docs_have_every_channel_and_occasion() -> None:
    """Each key of `[notify]`, and each word that `notify.on` takes."""
    rows = re.findall(r"^\| `(?:notify\.)?(\w+)` \|", section("Messages"), re.MULTILINE)
    assert set(rows) == {*Notify._fields, *OCCASIONS, "URL"}


def test_the_docs_have_every_address_of_the_page() -> None:
    """All but its assets and the streams, which no person opens; and each of its actions."""
    text = section("The status page")
    for each in create_app(Settings(), "").routes:
        route = str(getattr(each, "path", ""))
        if not route.startswith(("/live", "/assets", "/robots", "/actions/")):
            address = re.sub(r"{(\w+)}", lambda found: found[1].upper(), route)
            assert f"`{address}`" in text, address
    for action in ACTIONS:
        assert {"rollback": "roll back"}.get(action.name, action.name) in text, action.name
