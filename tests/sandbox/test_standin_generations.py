"""Endpoints, files and database of each generation of the stand-in match observations of the real t3."""

import json
import re
import shutil
import sqlite3
import subprocess
import time
import urllib.parse
from collections.abc import Callable
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

from t3flow.sandbox.enter import has_own_network

DATA = Path(__file__).parents[1] / "data"
SAMPLES = {30: "state-level30", 32: "state-level32", 52: "state-level52", 56: "statev2-level56"}
VERSIONS = {"A": "0.0.24", "B": "0.0.33", "C": "0.0.42", "D": "0.1.0", "E": "0.9.0"}
LIVE = {"A": "state.sqlite", "B": "state.sqlite", "C": "state.sqlite", "D": "statev2.sqlite", "E": "journal3.sqlite"}
EXCHANGE = {"A": "/api/auth/bootstrap", **dict.fromkeys("BCDE", "/api/auth/browser-session")}
BEARER = {"A": "/api/auth/bootstrap/bearer", **dict.fromkeys("BCDE", "/oauth/token")}
SHELL, SNAPSHOT, V3 = "/api/orchestration/shell", "/api/orchestration/snapshot", "/api/v3/threads"
FORM = {"Content-Type": "application/x-www-form-urlencoded"}

Schema = tuple[dict[str, list[str]], list[tuple[int, str]]]


def sample(level: int) -> Path:
    return DATA / f"{SAMPLES[level]}.sqlite"


def with_state(base_dir: Path, level: int = 30, name: str = "state.sqlite") -> Path:
    (base_dir / "userdata").mkdir(parents=True, exist_ok=True)
    shutil.copyfile(sample(level), base_dir / "userdata" / name)
    return base_dir


def query(path: Path, sql: str) -> list[Any]:
    how = "?immutable=1" if path.parent == DATA else ""
    with closing(sqlite3.connect(f"file:{path}{how}", uri=True)) as connection:
        return connection.execute(sql).fetchall()


def schema(path: Path) -> Schema:
    """Return the columns of each table, the names of indexes, and the entries of the ledger."""
    names = query(path, "select type, name, sql from sqlite_master where name not like 'sqlite_%' order by name")
    columns = {
        name: sorted(row[1] for row in query(path, f'pragma table_info("{name}")'))
        for kind, name, _ in names
        if kind == "table"
    }
    columns["indexes"] = [name for kind, name, sql in names if kind == "index" and sql]
    return columns, query(path, "select migration_id, name from effect_sql_migrations order by 1")


@pytest.fixture
def build(builds: Callable[..., Any]) -> Callable[..., Any]:
    """Return a build of a generation that starts and stops fast, with faults."""

    def make(generation: str, *rules: dict[str, Any], **more: Any) -> Any:
        quick = {"generation": generation, "boot_window_ms": 50, "stop_ms": 20, "rules": list(rules), **more}
        return builds(VERSIONS[generation], quick)

    return make


def cookie_of(server: Any, build: Any) -> tuple[str, str]:
    """Pair, and return name and value of the cookie."""
    minted = json.loads(build.mint(server.base_dir).stdout)
    status, headers, text = server.request(
        "POST", EXCHANGE[build.generation], {"credential": minted["credential"]}, {"Content-Type": "application/json"}
    )
    assert status == 200, text
    name, _, rest = headers["set-cookie"].partition("=")
    assert re.search(r"; Path=/; Expires=[^;]+; HttpOnly; SameSite=Lax$", rest)
    return name, rest.partition(";")[0]


def owner(build: Any, base_dir: Path) -> dict[str, str]:
    issued: subprocess.CompletedProcess[str] = build.run("auth", "session", "issue", "--base-dir", base_dir, "--json")
    return {"Authorization": f"Bearer {json.loads(issued.stdout)['token']}"}


# Endpoints ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("generation", "ABCDE")
def test_pairing_and_the_read_endpoints(
    build: Callable[..., Any], serve: Callable[..., Any], tmp_path: Path, generation: str
) -> None:
    made = build(generation)
    server = serve(made, with_state(tmp_path / "base"))
    other = {"/api/auth/bootstrap", "/api/auth/browser-session"} - {EXCHANGE[generation]}
    assert server.request("POST", other.pop(), {"credential": "x"})[0] == 404
    for body, status in ((None, 400), ("no json", 500 if generation == "B" else 400), ({"credential": "x"}, 401)):
        assert server.request("POST", EXCHANGE[generation], body)[0] == status, body
    name, value = cookie_of(server, made)
    client = {"Cookie": f"{name}={value}"}
    said = server.request("GET", "/api/auth/session", headers=client)[2]
    if generation == "E":
        assert said.startswith("<!doctype html>")
    else:
        assert json.loads(said)["authenticated"] is True
        assert json.loads(said)["auth"]["sessionCookieName"] == name
    bearer = owner(made, tmp_path / "base")

    def shown(path: str, headers: dict[str, str]) -> dict[str, int] | int:
        status, _, text = server.request("GET", path, headers=headers)
        if status != 200 or text.startswith("<!doctype"):
            return 0 if status == 200 else status
        return {key: len(rows) for key, rows in json.loads(text).items() if isinstance(rows, list)}

    rows = {"projects": 5, "threads": 20}
    expected: dict[str, list[Any]] = {
        "A": [{**rows, "messages": 401}, {**rows, "messages": 401}, 0, 0],
        "B": [{**rows, "messages": 401}, {**rows, "messages": 401}, 0, 0],
        "C": [rows, rows, {"projects": 5, "threads": 17}, 0],
        "D": [0, 0, {"projects": 5, "threads": 17, "archivedThreads": 3}, 0],
        "E": [0, 0, 0, {"items": 20}],
    }
    asked = ((SNAPSHOT, client), (SNAPSHOT, bearer), (SHELL, client), (V3, client))
    assert [shown(path, headers) for path, headers in asked] == expected[generation]
    if generation in "CD":
        _, headers, text = server.request("GET", SHELL, headers=client)
        v2 = generation == "D"
        assert headers.get("x-t3-orchestration-protocol") == ("2" if v2 else None)
        assert json.loads(text).keys() == {
            *("snapshotSequence", "threads", "projects"),
            *(("schemaVersion", "archivedThreads") if v2 else ("updatedAt",)),
        }
        assert server.request("GET", SHELL)[0] == 401


def test_late_builds_of_b(builds: Callable[..., Any], serve: Callable[..., Any], tmp_path: Path) -> None:
    made = builds("0.0.33", {"generation": "B", "schema_level": 41})
    server = serve(made, with_state(tmp_path / "base"))
    bearer = owner(made, tmp_path / "base")
    assert server.json(SNAPSHOT, headers=bearer)["threads"][0]["messages"] == []
    assert len(server.json(SHELL, headers=bearer)["threads"]) == 17
    assert server.json("/api/auth/session")["auth"]["sessionCookieName"] == "t3_session"


@pytest.mark.parametrize("generation", "ABCD")
def test_an_owner_bearer(build: Callable[..., Any], serve: Callable[..., Any], tmp_path: Path, generation: str) -> None:
    server = serve(build(generation), tmp_path / "base")
    deadline = time.monotonic() + 5
    while not (token := re.search(r"Token: (\w+)", server.log.read_text())):
        assert time.monotonic() < deadline
        time.sleep(0.02)
    form = urllib.parse.urlencode({"subject_token": token[1]})
    if generation in "CD":
        body, kind = {"credential": token[1]}, {"Content-Type": "application/json"}
        assert server.request("POST", BEARER[generation], body, kind)[0] == 415, "form-encoded only"
        status, _, text = server.request("POST", BEARER[generation], form, FORM)
        assert "█" in server.log.read_text()
    else:
        status, _, text = server.request("POST", BEARER[generation], {"credential": token[1]})
    assert status == 200
    answer = json.loads(text)
    headers = {"Authorization": f"Bearer {answer.get('access_token') or answer['sessionToken']}"}
    assert server.json("/api/auth/session", headers=headers)["authenticated"] is True


@pytest.mark.parametrize("generation", "ABCDE")
def test_the_environment_document_and_the_files(
    build: Callable[..., Any], serve: Callable[..., Any], tmp_path: Path, generation: str
) -> None:
    server = serve(build(generation), tmp_path / "base")
    said = server.json("/.well-known/t3/environment")
    userdata = tmp_path / "base" / "userdata"
    identity = (userdata / "environment-id").read_text()
    assert re.fullmatch(r"[0-9a-f-]{36}", identity)
    assert said["serverVersion"] == VERSIONS[generation]
    assert said.get("environmentId") == (identity if generation in "CDE" else None)
    assert ("capabilities" in said) == (generation in "CDE")
    assert said.get("orchestrationProtocolVersion") == {"D": 2, "E": 3}.get(generation)
    assert (userdata / LIVE[generation]).exists()
    assert (userdata / "environment-id").stat().st_mode & 0o777 == 0o644
    assert {"settings.json", "keybindings.json", "anonymous-id", "attachments", "themes", "logs", "secrets"} <= {
        path.name for path in userdata.iterdir()
    }
    assert (server.pid == server.child.pid) == (generation in "AB"), "server-runtime.json names the server"
    assert ("Running all migrations..." in server.log.read_text()) == (generation in "AB")
    server.stop()
    again = serve(build(generation), tmp_path / "base")
    time.sleep(0.1)
    said_again = "Migrations ran successfully" in again.log.read_text()
    assert said_again == (generation in "AB"), "C says it only if some ran"
    assert (userdata / "environment-id").read_text() == identity


@pytest.mark.parametrize("generation", "CD")
def test_the_cookie_is_named_by_the_user(
    build: Callable[..., Any], serve: Callable[..., Any], tmp_path: Path, generation: str
) -> None:
    made = build(generation)
    server = serve(made, tmp_path / "ada")
    name, value = cookie_of(server, made)
    assert re.fullmatch(rf"t3_session_{server.port}_[0-9a-f]{{12}}", name)
    for accepted in (name, "t3_session"):
        assert server.json("/api/auth/session", headers={"Cookie": f"{accepted}={value}"})["authenticated"] is True
    if has_own_network():
        names = [cookie_of(serve(made, tmp_path / user, host="0.0.0.0"), made)[0] for user in ("bob", "eve")]
        assert all(re.fullmatch("t3_session_[0-9a-f]{12}", each) for each in names)
        assert names[0] != names[1], "it is another one for each user"
    server.stop()
    assert cookie_of(serve(made, tmp_path / "ada", port=server.port), made)[0] == name, "and the same at each start"


# Commands -----------------------------------------------------------------------------------------------------------


def test_unknown_commands_and_those_of_later_generations(build: Callable[..., Any], tmp_path: Path) -> None:
    said = build("D").run("frobnicate", "--base-dir", tmp_path / "d")
    assert (said.returncode, said.stdout) == (1, "Unknown command: frobnicate\n")
    base_dir = with_state(tmp_path / "base")
    said = build("C").run("pair", "--base-dir", base_dir)
    assert "Pairing URL: " in said.stdout
    assert max(schema(base_dir / "userdata" / "state.sqlite")[1])[0] == 52, "it migrates as any command does"


@pytest.mark.parametrize("generation", "CD")
def test_a_held_write_lock_is_waited_for(build: Callable[..., Any], tmp_path: Path, generation: str) -> None:
    made = build(generation)
    base_dir = with_state(tmp_path / "base", 52)
    made.mint(base_dir)
    with closing(sqlite3.connect(base_dir / "userdata" / LIVE[generation], isolation_level=None)) as other:
        other.execute("begin immediate")
        began = time.monotonic()
        said = made.mint(base_dir)
    assert 4.5 < time.monotonic() - began < 11.5
    assert (said.returncode, said.stderr) == (1, "")
    assert "Error: database is locked" in said.stdout


# Databases ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("generation", "start", "end"), [("B", 30, 32), ("C", 30, 52), ("C", 32, 52), ("D", 30, 56), ("D", 52, 56)]
)
def test_migrations_make_the_schema_that_real_servers_wrote(
    build: Callable[..., Any], tmp_path: Path, generation: str, start: int, end: int
) -> None:
    base_dir = with_state(tmp_path / "base", start)
    said = build(generation).mint(base_dir)
    assert (said.returncode, "igrat" in said.stdout) == (0, False)
    made, wanted = schema(base_dir / "userdata" / LIVE[generation]), schema(sample(end))
    assert made[1] == wanted[1], "the ledger has the same ids and names"
    assert made[0] == wanted[0]
    counts = "select (select count(*) from projection_threads), (select count(*) from projection_thread_messages)"
    assert query(base_dir / "userdata" / LIVE[generation], counts) == query(sample(start), counts)


def test_a_late_b_reaches_level_41(builds: Callable[..., Any], tmp_path: Path) -> None:
    builds("0.0.33", {"generation": "B", "schema_level": 41}).mint(with_state(tmp_path / "base"))
    ledger = schema(tmp_path / "base" / "userdata" / "state.sqlite")[1]
    assert ledger == schema(sample(52))[1][:41]


def test_statev2_is_made_once_by_any_command(
    build: Callable[..., Any], serve: Callable[..., Any], tmp_path: Path
) -> None:
    """After the split, C does not get the work of D, nor D that of C."""
    base_dir = with_state(tmp_path / "base", 52)
    c, d = build("C"), build("D")
    server = serve(c, base_dir)
    server.control("thread", title="before")
    assert d.mint(base_dir).returncode == 0
    server.control("thread", title="after")
    titles = "select title from projection_threads where title in ('before', 'after')"
    userdata = base_dir / "userdata"
    assert query(userdata / "state.sqlite", titles) == [("before",), ("after",)]
    assert query(userdata / "statev2.sqlite", titles) == [("before",)]
    assert cookie_of(server, c), "the server of C goes on"
    server.stop()
    later = serve(d, base_dir)
    shown = [thread["title"] for thread in later.json(SHELL, headers=owner(d, base_dir))["threads"]]
    assert "before" in shown
    assert "after" not in shown
    later.control("thread", title="in v2")
    later.stop()
    assert query(userdata / "state.sqlite", titles) == [("before",), ("after",)]
    again = serve(c, base_dir)
    shown = [thread["title"] for thread in again.json(SHELL, headers=owner(c, base_dir))["threads"]]
    assert ("after" in shown, "in v2" in shown) == (True, False)
    assert schema(userdata / "state.sqlite")[1][-1][0] == 52


def test_a_fresh_user_of_d_has_no_old_database(
    build: Callable[..., Any], serve: Callable[..., Any], tmp_path: Path
) -> None:
    serve(build("D"), tmp_path / "base").stop()
    assert sorted(path.name for path in (tmp_path / "base" / "userdata").glob("*.sqlite")) == ["statev2.sqlite"]


def test_an_old_server_on_a_newer_schema_works_from_b_on(
    build: Callable[..., Any], serve: Callable[..., Any], tmp_path: Path
) -> None:
    base_dir = with_state(tmp_path / "base", 32)
    b, c = build("B"), build("C")
    server = serve(b, base_dir)
    assert c.mint(base_dir).returncode == 0
    assert cookie_of(server, b), "it keeps pairing"
    server.control("turn/start")
    server.stop()
    again = serve(b, base_dir)
    assert cookie_of(again, b), "and it starts"


# The fifth generation -----------------------------------------------------------------------------------------------


def test_the_fifth_generation_keeps_everything_elsewhere(
    build: Callable[..., Any], serve: Callable[..., Any], tmp_path: Path
) -> None:
    base_dir = with_state(tmp_path / "base", 52)
    server = serve(build("E"), base_dir)
    live = base_dir / "userdata" / "journal3.sqlite"
    server.control("turn/start")
    tables = schema(live)[0].keys()
    assert not {"projection_thread_sessions", "orchestration_v2_projection_runs"} & tables
    assert query(live, "select phase from journal_work") == [(1,)]
    assert schema(base_dir / "userdata" / "state.sqlite")[1][-1][0] == 52, "the old database stays as it was"


@pytest.mark.parametrize("generation", "CD")
def test_each_unknown_can_be_had_alone(
    build: Callable[..., Any], serve: Callable[..., Any], tmp_path: Path, generation: str
) -> None:
    def look(fault: str) -> tuple[bool, bool, bool, bool]:
        base_dir = with_state(tmp_path / fault, 52)
        made = build(generation, {"fault": fault})
        server = serve(made, base_dir)
        name, value = cookie_of(server, made)
        shown = server.request("GET", SHELL, headers={"Cookie": f"{name}={value}"})[2]
        live = "journal3.sqlite" if fault == "unknown_database" else LIVE[generation]
        tables = schema(base_dir / "userdata" / live)[0]
        session = server.request("GET", "/api/auth/session")[2]
        server.stop()
        found = (
            (base_dir / "userdata" / "journal3.sqlite").exists(),
            "journal_work" in tables,
            shown.startswith("<!doctype"),
            session.startswith("<!doctype"),
        )
        assert serve(made, base_dir).request("GET", "/")[0] == 200, "it starts again"
        return found

    unknowns = ["unknown_database", "unknown_activity", "unknown_read_api", "no_session_document"]
    assert [look(fault) for fault in unknowns] == [
        (True, False, False, False),
        (False, True, False, False),
        (False, False, True, False),
        (False, False, False, True),
    ]
