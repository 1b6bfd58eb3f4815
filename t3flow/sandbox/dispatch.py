"""usage: python -m t3flow.sandbox.dispatch --user-map FILE …: a reverse proxy that pairs browsers with their user's server.

A header holds the identity. For a request without a session cookie, the dispatch mints a credential as the user with the launcher's t3,
exchanges it at the user's server, and returns the cookies; it forwards all other requests.

The log has a line for each pairing, which alert rules match: `paired user=… endpoint=… fallback=true|false`,
`mint for USER failed: …`, `pairing exchange for USER failed: …`, `pairing for USER returned NNN`.
"""

import argparse
import json
import subprocess
import sys
import tempfile
import threading
from contextlib import suppress
from dataclasses import dataclass
from http.server import BaseHTTPRequestHandler
from pathlib import Path

from t3flow import T3flowError
from t3flow.host import http_client
from t3flow.host.accounts import AccountError, account, command_as, is_root
from t3flow.sandbox.serving import LocalServer, serve_until_terminated
from t3flow.sandbox.users import UserError, base_dir_of, environment_of, port_of
from t3flow.settings.user_map import UserMapError, read_user_map

USER_HEADER = "X-authentik-username"
COOKIE = "t3_session"
PAIR_ENDPOINTS = ("/api/auth/browser-session", "/api/auth/bootstrap")
MINT_SECONDS, EXCHANGE_SECONDS, PROXY_SECONDS = 15.0, 5.0, 30.0
MAX_PROXY_BYTES = 64 * 1024 * 1024
STDERR = Path("-")
NOT_FORWARDED = {"connection", "keep-alive", "transfer-encoding", "te", "trailer", "upgrade", "content-length", "host"}


class PairingError(T3flowError):
    """A pairing failed. The text is the line for the log; it contains no credential or cookie."""


@dataclass(frozen=True)
class DispatchOptions:
    """Paths and limits. `base_dir` and `home` (by default the parent of the base dir) may contain `{user}`."""

    user_map: Path
    serve_env_dir: Path
    launcher: Path
    base_dir: str
    log: Path
    home: str = ""
    pair_endpoints: tuple[str, ...] = PAIR_ENDPOINTS
    mint_seconds: float = MINT_SECONDS


def mint(options: DispatchOptions, user: str) -> str:
    """Return a credential for a user's server from `t3 auth pairing create`, which root runs as the user. Raise PairingError."""
    base_dir = base_dir_of(options.base_dir, user)
    home = base_dir_of(options.home, user) if options.home else base_dir.parent
    command = [str(options.launcher), "auth", "pairing", "create", "--base-dir", str(base_dir), "--ttl", "5m", "--json"]
    if is_root():
        command = command_as(account(user), command)
    # Files, not pipes: children of a mint that hangs would keep a pipe open.
    with tempfile.TemporaryFile() as output, tempfile.TemporaryFile() as errors:
        try:
            code = subprocess.run(
                command,
                env=environment_of(user, home),
                cwd="/",
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=errors,
                timeout=options.mint_seconds,
                check=False,
            ).returncode
        except subprocess.TimeoutExpired:
            raise PairingError(f"mint for {user} failed: no answer within {options.mint_seconds:g} s") from None
        except OSError as error:
            raise PairingError(f"mint for {user} failed: {options.launcher}: {error.strerror}") from error
        output.seek(0)
        errors.seek(0)
        said, complained = output.read(), errors.read()
    if code != 0:
        text = (said + b"\n" + complained).decode(errors="replace")
        raise PairingError(f"mint for {user} failed: exit {code}: {_error_line(text)}")
    try:
        credential = json.loads(said)["credential"]
    except (ValueError, TypeError, KeyError):
        credential = None
    if not isinstance(credential, str):
        raise PairingError(f"mint for {user} failed: exit 0, but no credential in {len(said)} bytes of output")
    return credential


def _error_line(text: str) -> str:
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    return next((line for line in lines if "ERROR" in line), lines[-1] if lines else "no output")[:300]


def exchange(options: DispatchOptions, user: str, credential: str) -> tuple[list[str], str]:
    """Exchange a credential. Return (Set-Cookie headers, endpoint that accepted it). Raise PairingError, UserError."""
    port = port_of(options.serve_env_dir, user)
    body = json.dumps({"credential": credential}).encode()
    status = 404
    for endpoint in options.pair_endpoints:
        try:
            answer = http_client.request(
                f"http://127.0.0.1:{port}{endpoint}",
                method="POST",
                body=body,
                headers={"Content-Type": "application/json"},
                timeout_seconds=EXCHANGE_SECONDS,
            )
        except OSError as error:
            raise PairingError(f"pairing exchange for {user} failed: {type(error).__name__} at port {port}") from error
        status = answer.status
        if status != 404:
            break
    if status != 200:
        raise PairingError(f"pairing for {user} returned {status}")
    cookies = answer.headers.get_all("Set-Cookie") or []
    if not cookies:
        raise PairingError(f"pairing exchange for {user} failed: the answer of {endpoint} sets no cookie")
    return cookies, endpoint


class Dispatch(LocalServer):
    """The dispatch on 127.0.0.1. It reads the user map at each request."""

    def __init__(self, options: DispatchOptions, port: int = 0) -> None:
        self.options = options
        self._log_lock = threading.Lock()
        super().__init__(("127.0.0.1", port), _Handler)

    def log(self, line: str) -> None:
        """Append a line to the log. Thread-safe."""
        with self._log_lock:
            if self.options.log == STDERR:
                print(line, file=sys.stderr, flush=True)
                return
            with self.options.log.open("a") as file:
                file.write(line + "\n")


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server: Dispatch

    def do_GET(self) -> None:
        """Pair, or forward the request."""
        options = self.server.options
        identity = self.headers.get(USER_HEADER, "")
        try:
            user = read_user_map(options.user_map).user_of.get(identity)
            if user is None:
                self._text(403, "no user has this identity")
            elif self._has_session():
                self._proxy(user, port_of(options.serve_env_dir, user))
            else:
                self._pair(user)
        except PairingError as error:
            self.server.log(str(error))
            self._text(502, "pairing failed")
        except (UserError, UserMapError, AccountError) as error:
            self.server.log(f"dispatch: {error}")
            self._text(502, "the server of this user is unknown")

    do_POST = do_HEAD = do_PUT = do_DELETE = do_GET

    def _has_session(self) -> bool:
        pairs = "; ".join(self.headers.get_all("Cookie") or []).split(";")
        names = [pair.partition("=")[0].strip() for pair in pairs]
        return any(name == COOKIE or name.startswith(f"{COOKIE}_") for name in names)

    def _pair(self, user: str) -> None:
        options = self.server.options
        cookies, endpoint = exchange(options, user, mint(options, user))
        fallback = endpoint != options.pair_endpoints[0]
        self.server.log(f"paired user={user} endpoint={endpoint} fallback={str(fallback).lower()}")
        self.close_connection = True  # the body of the request is not read
        self._begin(302, [("Location", "/"), *(("Set-Cookie", cookie) for cookie in cookies)])
        self._end(b"")

    def _proxy(self, user: str, port: int) -> None:
        length = self.headers.get("Content-Length", "")
        body = self.rfile.read(int(length)) if length.isdecimal() else None
        headers = {name: value for name, value in self.headers.items() if name.lower() not in NOT_FORWARDED}
        try:
            answer = http_client.request(
                f"http://127.0.0.1:{port}{self.path}",
                method=self.command,
                body=body,
                headers=headers,
                timeout_seconds=PROXY_SECONDS,
                max_bytes=MAX_PROXY_BYTES,
            )
        except OSError as error:
            self.server.log(f"request for {user} failed: {type(error).__name__} at port {port}")
            self._text(502, "the server does not answer")
            return
        self._begin(answer.status, [pair for pair in answer.headers.items() if pair[0].lower() not in NOT_FORWARDED])
        self._end(answer.body)

    def _text(self, status: int, text: str) -> None:
        self.close_connection = True
        self._begin(status, [("Content-Type", "text/plain; charset=utf-8")])
        self._end(f"{text}\n".encode())

    def _begin(self, status: int, headers: list[tuple[str, str]]) -> None:
        self.send_response(status)
        for name, value in headers:
            if name.lower() not in ("date", "server"):
                self.send_header(name, value)

    def _end(self, body: bytes) -> None:
        self.send_header("Content-Length", str(len(body)))
        if self.close_connection:
            self.send_header("Connection", "close")
        self.end_headers()
        with suppress(OSError):  # the browser has disconnected
            if self.command != "HEAD":
                self.wfile.write(body)

    def log_message(self, format: str, *args: object) -> None:
        """Log nothing: the log holds pairings only, and no path of a request."""


def main() -> None:
    """Serve until terminated."""
    parser = argparse.ArgumentParser(prog="python -m t3flow.sandbox.dispatch")
    parser.add_argument("--port", type=int, default=0, help="0 takes a free one")
    parser.add_argument("--user-map", type=Path, required=True, help="lines IDENTITY=USER")
    parser.add_argument("--serve-env-dir", type=Path, required=True, help="USER.env with T3_PORT=…")
    parser.add_argument("--launcher", type=Path, required=True, help="the t3 that mints credentials")
    parser.add_argument("--base-dir", required=True, help="template with {user}")
    parser.add_argument("--home-template", default="", help="template with {user}; default: the parent of the base dir")
    parser.add_argument("--log", type=Path, required=True, help="a file, or - for stderr")
    parser.add_argument("--pair-endpoint", action="append", help="repeatable: endpoints to try, in order")
    parser.add_argument("--mint-timeout-seconds", type=float, default=MINT_SECONDS)
    given = parser.parse_args()
    options = DispatchOptions(
        user_map=given.user_map,
        serve_env_dir=given.serve_env_dir,
        launcher=given.launcher.absolute(),
        base_dir=given.base_dir,
        log=given.log,
        home=given.home_template,
        pair_endpoints=tuple(given.pair_endpoint or PAIR_ENDPOINTS),
        mint_seconds=given.mint_timeout_seconds,
    )
    serve_until_terminated(Dispatch(options, given.port))


if __name__ == "__main__":
    main()
