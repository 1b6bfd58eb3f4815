"""The faults of later generations match the table in sandbox/README.md, and unusual but good builds work."""

import json
import re
import shutil
import sqlite3
import time
from collections.abc import Callable
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

DATA = Path(__file__).parents[1] / "data"
SHELL = "/api/orchestration/shell"
README = Path(__file__).parents[2] / "t3flow" / "sandbox" / "README.md"


@pytest.fixture
def build(builds: Callable[..., Any]) -> Callable[..., Any]:
    """Return a build that starts and stops fast, with faults."""

    def make(generation: str, *rules: dict[str, Any]) -> Any:
        quick = {"boot_window_ms": 50, "stop_ms": 20, "rules": list(rules)}
        return builds("0.0.42", {"generation": generation, **quick})

    return make


@pytest.fixture
def base_dir(tmp_path: Path) -> Path:
    """Return a base dir with a database of C."""
    (tmp_path / "base" / "userdata").mkdir(parents=True)
    shutil.copyfile(DATA / "state-level52.sqlite", tmp_path / "base" / "userdata" / "state.sqlite")
    return tmp_path / "base"


def query(path: Path, sql: str) -> list[Any]:
    with closing(sqlite3.connect(path)) as connection:
        return connection.execute(sql).fetchall()


def exchange(server: Any, build: Any) -> tuple[int, str]:
    credential = json.loads(build.mint(server.base_dir).stdout)["credential"]
    status, headers, _ = server.request("POST", "/api/auth/browser-session", {"credential": credential})
    return status, headers.get("set-cookie", "").partition("=")[0]


def test_seeding_from_an_empty_database(build: Callable[..., Any], base_dir: Path) -> None:
    assert build("D", {"fault": "seeds_empty"}).mint(base_dir).returncode == 0
    assert query(base_dir / "userdata" / "statev2.sqlite", "select count(*) from projection_threads") == [(0,)]


def test_seeding_that_damages_its_source(build: Callable[..., Any], base_dir: Path) -> None:
    rule = {"fault": "damages", "at": "seeded", "file": "state.sqlite", "how": "truncated"}
    source = base_dir / "userdata" / "state.sqlite"
    size = source.stat().st_size
    assert build("D", rule).mint(base_dir).returncode == 0
    assert source.stat().st_size < size
    assert query(base_dir / "userdata" / "statev2.sqlite", "pragma integrity_check") == [("ok",)]


def test_the_database_in_another_place(build: Callable[..., Any], serve: Callable[..., Any], base_dir: Path) -> None:
    server = serve(build("D", {"fault": "database_elsewhere"}), base_dir)
    server.control("turn/start")
    assert not (base_dir / "userdata" / "statev2.sqlite").exists()
    runs = "select count(*) from orchestration_v2_projection_runs"
    assert query(base_dir / "data" / "statev2.sqlite", runs) == [(1,)]


def test_a_reused_migration(build: Callable[..., Any], base_dir: Path) -> None:
    rule = {"fault": "ledger_reuses_id", "id": 54, "name": "OrchestrationV2", "sql": ["create table early (id text)"]}
    build("D", rule).mint(base_dir)
    ledger = "select migration_id, name from effect_sql_migrations where migration_id > 53"
    live = base_dir / "userdata" / "statev2.sqlite"
    assert query(live, ledger) == [
        (54, "OrchestrationV2"),
        (55, "OrchestrationV2"),
        (56, "RemoveRedundantProjectionIndexes"),
    ]
    assert query(live, "select * from early") == []


def test_the_second_pairing_fails(build: Callable[..., Any], serve: Callable[..., Any], base_dir: Path) -> None:
    made = build("C", {"fault": "second_pairing_fails"})
    server = serve(made, base_dir)
    assert [exchange(server, made)[0] for _ in range(3)] == [200, 500, 500]
    server.stop()
    assert exchange(serve(made, base_dir), made)[0] == 200, "once per start"


def test_a_cookie_that_changes(build: Callable[..., Any], serve: Callable[..., Any], tmp_path: Path) -> None:
    def two_names(fault: str, base_dir: Path) -> tuple[str, str, bool]:
        made = build("C", {"fault": fault})
        server = serve(made, base_dir)
        identity = base_dir / "userdata" / "environment-id"
        first, before = exchange(server, made)[1], identity.read_text()
        server.stop()
        again = serve(made, base_dir, port=server.port)
        return first, exchange(again, made)[1], identity.read_text() == before

    first, second, same = two_names("cookie_changes", tmp_path / "a")
    assert (first != second, same) == (True, True)
    first, second, same = two_names("environment_id_changes", tmp_path / "b")
    assert (first != second, same) == (True, False)


def test_a_shell_that_hides_rows(build: Callable[..., Any], serve: Callable[..., Any], base_dir: Path) -> None:
    for generation in "CD":
        made = build(generation, {"fault": "shell_hides_rows", "count": 1})
        server = serve(made, base_dir)
        token = json.loads(made.run("auth", "session", "issue", "--base-dir", base_dir, "--json").stdout)["token"]
        shown = server.json(SHELL, headers={"Authorization": f"Bearer {token}"})
        assert (len(shown["projects"]), len(shown["threads"])) == (0, 1), "of one and two"
        server.stop()


def test_odd_but_good_builds(build: Callable[..., Any], serve: Callable[..., Any], base_dir: Path) -> None:
    made = build(
        "D",
        {"fault": "slow_start", "seconds": 0.5},
        {"fault": "writes_files", "files": {"userdata/layout.json": "{}", "caches/seen": "1"}},
        {"fault": "keeps_cache_database", "name": "search.sqlite"},
        {"fault": "monitor_restarts", "seconds": 0.2},
        {"fault": "launcher_title", "title": "t3-front"},
        {"fault": "probes_agents", "every_ms": 100},
    )
    server = serve(made, base_dir)
    time.sleep(0.2)
    assert exchange(server, made)[0] == 200
    assert (base_dir / "userdata" / "layout.json").read_text() == "{}"
    cache = base_dir / "userdata" / "search.sqlite"
    assert not cache.with_name("search.sqlite-wal").exists(), "closed again"
    assert query(cache, "select count(*) from sqlite_master where name = 'effect_sql_migrations'") == [(0,)]
    assert server.stop() == -15


def test_the_table_names_every_fault() -> None:
    """The README names each fault and deed in the code."""
    lib = README.parent / "standin"
    code = "".join(path.read_text() for path in [*lib.glob("lib/**/*.js"), *lib.glob("launcher/*.mjs")])
    deeds = re.search(r"const deeds = \{(.*?)\};", code, re.DOTALL)
    unknown = re.search(r"const UNKNOWN = \{(.*?)\n\};", code, re.DOTALL)
    assert deeds is not None
    assert unknown is not None
    named = set(re.findall(r'fault\("(\w+)"', code)) | set(re.findall(r'rule\.fault === "(\w+)"', code))
    named |= set(re.findall(r"\w+", deeds[1])) | set(re.findall(r"^  (\w+):", unknown[1], re.MULTILINE))
    table = set(re.findall(r"`(\w+)`", README.read_text()))
    assert named - table == set()
