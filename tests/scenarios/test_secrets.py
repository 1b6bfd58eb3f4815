"""Secrets are planted wherever a host has them, t3flow does its work, and each is looked for wherever t3flow writes or prints.

To add a channel, add a line to `channels`: its name and what it holds.
"""

import base64
import os
import re
import sqlite3
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import closing, suppress
from pathlib import Path
from typing import Any
from urllib.parse import quote

import pytest
from conftest import RedisServer
from redis import Redis
from scenes import LATER, NEXT, bump

from t3flow.host import http_client
from t3flow.sandbox.host import Sandbox, free_port

NPM, NPMRC = "npm_Ab3Cd5Ef7Gh9Jk2Lm4Np6Qr8St1Uv3Wx5", "npm_Zy9Xw7Vu5Ts3Rq1Po8Nm6Lk4Jh2Gf0Ed"
REDIS, PING, HOOK, APPRISE = "r3disPassw0rdQQ", "p1ngTokenABCDEF77", "wh00kTokenXYZ99ab", "appr1seTokenLMN55"
ARGUMENT, SPACED, VARIABLE = "argvTokenAA11bb22CC", "spacedTokenDD33ee44", "envTokenGG55hh66II"
LOGGED, SPLIT = "Lk9Jh7Gf5Dd3Ss1Aa8Qq6Ww4", "Mn2Bv4Cx6Zz8Ll1Kk3Jj5Hh7"
PLANTED = [NPM, NPMRC, REDIS, PING, HOOK, APPRISE, ARGUMENT, SPACED, VARIABLE, LOGGED]
FOR_SECRETS = {"queue.url", "npmrc"}
"""Files that exist to hold a secret, for t3flow's own account alone: what the consumer connects to, and what npm reads."""
LOG_LINES = [
    f"session token={LOGGED}",
    f"ERROR request failed: Authorization: Bearer {LOGGED}",
    f"ERROR GET https://example.test/?access_token={LOGGED}&x=1 failed",
    f"ERROR token%3D{LOGGED} is not valid",
    f"ERROR decoding {base64.b64encode(LOGGED.encode()).decode()} failed",
    f"Token: {SPLIT[:12]}\n{SPLIT[12:]}",
]
"""What a bad build writes to its log before it ends."""


def forms(secret: str) -> dict[str, bytes]:
    """Return a secret as it may be written."""
    raw = secret.encode()
    return {
        "as it is": raw,
        "URL-encoded": quote(secret, safe="").encode(),
        "base64": base64.b64encode(raw).rstrip(b"="),
        "base64 in a URL": base64.urlsafe_b64encode(raw).rstrip(b"="),
        "hex": raw.hex().encode(),
    }


def found_in(channel: bytes, secrets: list[str]) -> list[str]:
    """Return which secrets a channel shows, in which form."""
    return [f"{secret} {form}" for secret in secrets for form, text in forms(secret).items() if text in channel]


def credentials(box: Sandbox) -> list[str]:
    """Return all pairing credentials and the beginnings of all session cookies of the users, and the owners' tokens that servers printed."""
    found: list[str] = []
    for user in box.users:
        with closing(sqlite3.connect(box.database(user))) as connection:
            found += [row[0] for row in connection.execute("select credential from auth_pairing_links")]
            ids = [row[0] for row in connection.execute("select session_id from auth_sessions")]
        found += [base64.urlsafe_b64encode(b'{"sid":"' + name.encode()).decode()[:60] for name in ids]
        log = box.top / "log" / f"t3-serve@{user}.log"
        found += re.findall(r"^Token: (\S+)", log.read_text(), re.MULTILINE) if log.exists() else []
    return sorted({each for each in found if len(each) >= 8})


def redis_content(server: RedisServer, password: str) -> bytes:
    """Return every value in Redis, and every name."""
    client = Redis(unix_socket_path=str(server.socket), password=password)
    keys = list(client.scan_iter())
    return b"\n".join([*keys, *(client.dump(key) or b"" for key in keys)])


def printed(box: Sandbox, *words: str) -> bytes:
    finished = box.t3flow(*words)
    return (finished.stdout + finished.stderr).encode()


def watched(box: Sandbox) -> bytes:
    """Return what `watch` prints in a pipe until it has shown the host once."""
    command = [sys.executable, "-m", "t3flow", "watch", "--json"]
    child = subprocess.Popen(command, env=box.environment, stdout=subprocess.PIPE)
    assert child.stdout is not None
    line = child.stdout.readline()
    child.terminate()
    child.wait()
    return line


def pages(box: Sandbox, runs: list[str]) -> Iterator[tuple[str, bytes]]:
    """Yield the pages that the web service shows, and what it prints itself."""
    port = free_port()
    environment = {**box.environment, "T3FLOW_WEB__LISTEN": f"127.0.0.1:{port}"}
    command = [sys.executable, "-m", "t3flow", "web"]
    with (box.top / "log/web.log").open("wb") as log:
        child = subprocess.Popen(command, env=environment, stdout=log, stderr=log)
    try:
        for path in [
            "/",
            "/runs",
            "/snapshots",
            "/settings",
            "/actions",
            "/users/ada",
            *(f"/runs/{run}" for run in runs),
        ]:
            answers: list[http_client.Answer] = []

            def is_answered(
                url: str = f"http://127.0.0.1:{port}{path}", answers: list[http_client.Answer] = answers
            ) -> bool:
                with suppress(OSError):
                    answers.append(http_client.request(url, timeout_seconds=20))
                return bool(answers)

            box.until(is_answered, f"the page shows {path}")
            assert answers[0].status == 200, path
            yield f"page {path}", answers[0].body
    finally:
        child.terminate()
        child.wait()
    yield "web.log", (box.top / "log/web.log").read_bytes()


def channels(box: Sandbox, redis: RedisServer) -> Iterator[tuple[str, bytes]]:
    """Yield the name and the content of each place that t3flow writes to or prints."""
    state = box.top / "state"
    for path in sorted(state.rglob("*")):
        if path.is_file() and path.name not in FOR_SECRETS:
            yield f"file {path.relative_to(state)}", path.read_bytes()
        assert path.name not in FOR_SECRETS or path.stat().st_mode & 0o077 == 0, path
    yield "consumer.log", (box.top / "log/consumer.log").read_bytes()
    yield "queue", redis_content(redis, REDIS)
    yield "watch", watched(box)
    runs = [each["run"] for each in box.document("runs")]
    listed = ["status", "runs", "deferrals", "backups", "doctor", "verify"]
    for words in [*([each] for each in listed), *(["show", run] for run in runs), ["config", "show"]]:
        yield " ".join(words), printed(box, *words)
        yield f"{' '.join(words)} --json", printed(box, *words, "--json")
    yield "status --all", printed(box, "status", "--all")
    yield "metrics", printed(box, "metrics")
    yield from pages(box, runs)
    yield "notify test", printed(box, "notify", "test")


@pytest.fixture
def host(make_box: Callable[..., Sandbox], redis_server: RedisServer) -> Sandbox:
    """Return a host with secrets in settings, environment, npmrc, command lines and logs. Its log is at the lowest level."""
    Redis.from_url(redis_server.url).config_set("requirepass", REDIS)
    extra = f"""
[notify]
ping_url = "http://127.0.0.1:9/ping/{PING}"
webhook_url = "http://127.0.0.1:9/hook?token={HOOK}"
urls = ["json://user:{APPRISE}@127.0.0.1:9/{APPRISE}"]
[log]
level = "DEBUG"
"""
    box: Sandbox = make_box(
        ["ada", "grace", "linus"], start=False, queue_url=f"unix://:{REDIS}@{redis_server.socket}", extra=extra
    )
    box.environment |= {"NPM_TOKEN": NPM, "NODE_AUTH_TOKEN": NPM, "SECRET_OF_THE_OWNER": VARIABLE}
    (box.top / "home/.npmrc").write_text(f"//127.0.0.1/:_authToken={NPMRC}\n")
    level30 = Path(__file__).parent.parent / "data" / "state-level30.sqlite"
    box.start("0.0.24", dict.fromkeys(box.users, level30), {"schema_level": 30})
    box.start_consumer()
    return box


@pytest.mark.timeout(600)
def test_no_secret_is_written_or_printed(host: Sandbox, redis_server: RedisServer) -> None:
    """A bump that succeeds beside a blocking process, one that fails at the gate with tokens in its log, a rollback, and a verify."""
    host.control(
        "grace", "terminal", command=["sh", "-c", "sleep 3000; :", f"--token={ARGUMENT}", "--password", SPACED]
    )
    host.publish(NEXT, {"schema_level": 32})
    assert bump(host)["outcome"] == "updated"
    logs: list[dict[str, Any]] = [
        {"fault": "logs", "at": "start", "text": text, "level": "ERROR"} for text in LOG_LINES
    ]
    host.publish(
        LATER,
        {
            "schema_level": 32,
            "rules": [
                *logs,
                {"fault": "exits", "at": "opened", "exit_code": 1, "when": {"not_scratch": False, "command": "serve"}},
            ],
        },
    )
    failed = bump(host)
    assert failed["outcome"] == "gate_failed"
    assert "[hidden]" in failed["reason"], failed["reason"]
    beside = foreign_server(host, "linus")
    try:
        assert host.t3flow("enqueue", "rollback", "--to", "0.0.24", "--user", "ada", "--wait").returncode == 0
        host.t3flow("verify")
        planted = [*PLANTED, SPLIT[:12], SPLIT[12:], *credentials(host)]
        assert len(planted) > 20, "servers printed tokens, and users have sessions"
        leaks = [
            f"{name}: {each}" for name, content in channels(host, redis_server) for each in found_in(content, planted)
        ]
    finally:
        beside.kill()
        beside.wait()
    assert leaks == []


def foreign_server(box: Sandbox, user: str) -> subprocess.Popen[bytes]:
    """Start a program of a user's own on their base dir, with a token in its command line and its environment."""
    words = [
        "sh",
        "-c",
        "sleep 3000; :",
        "serve",
        f"--token={ARGUMENT}",
        "--secret",
        SPACED,
        "--base-dir",
        str(box.base_dir(user)),
    ]
    return subprocess.Popen(words, env={**os.environ, "API_TOKEN": VARIABLE}, start_new_session=True)


def test_what_would_be_found(host: Sandbox, redis_server: RedisServer) -> None:
    """The control: the same search finds a secret in each form in a file of the state folder, and in a log line of a user's server."""
    for form, text in forms(LOGGED).items():
        (host.top / "state" / "leak").write_bytes(b"before " + text + b" after")
        seen = dict(channels_of_files(host))
        assert any(form in each for each in found_in(seen["file leak"], [LOGGED]))
    log = (host.top / "log" / "t3-serve@ada.log").read_bytes()
    assert found_in(log, credentials(host)), "a server prints its owner's token"


def channels_of_files(box: Sandbox) -> Iterator[tuple[str, bytes]]:
    for path in sorted((box.top / "state").rglob("*")):
        if path.is_file():
            yield f"file {path.relative_to(box.top / 'state')}", path.read_bytes()
