"""usage: python -m t3flow.sandbox.dispatch --port P --user-map F --serve-env-dir D --launcher F --base-dir TEMPLATE --log F

The dispatch of a devvm: knows the person by a header, mints a pairing credential as their user with the t3 on PATH, takes it to the user's
server and passes the cookie on with a 302. A request that brings the cookie is passed to the server.
"""

import argparse
import http.client
import json
import os
import subprocess
import threading
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

HEADER, COOKIE = "X-authentik-username", "t3_session"
ENDPOINTS = ("/api/auth/browser-session", "/api/auth/bootstrap")
MINT_SECONDS, SERVER_SECONDS = 30.0, 5.0


class Unpaired(Exception):
    """Why a person could not be paired; a line for the log."""


class Handler(BaseHTTPRequestHandler):
    """One request of a browser."""

    options: argparse.Namespace
    protocol_version = "HTTP/1.1"
    log_lock = threading.Lock()

    def do_GET(self) -> None:
        """Pairs a browser without a cookie, passes on what one with a cookie asks."""
        user = self._user(self.headers.get(HEADER, ""))
        if user is None:
            self._send(403, b"unknown person\n")
        elif f"{COOKIE}=" in self.headers.get("Cookie", ""):
            self._pass_on(user)
        else:
            self._pair(user)

    do_POST = do_GET

    def _user(self, person: str) -> str | None:
        for line in self.options.user_map.read_text().splitlines():
            name, _, user = line.partition("#")[0].strip().partition("=")
            if name and name == person:
                return user
        return None

    def _port(self, user: str) -> int:
        for line in (self.options.serve_env_dir / f"{user}.env").read_text().splitlines():
            if line.startswith("T3_PORT="):
                return int(line.partition("=")[2])
        raise Unpaired(f"mint for {user} failed: no port")

    def _pair(self, user: str) -> None:
        try:
            credential = self._mint(user)
            endpoint, cookies = self._exchange(user, credential)
        except Unpaired as problem:
            self._log(str(problem))
            self._send(502, b"pairing failed\n")
            return
        self._log(f"paired user={user} endpoint={endpoint} fallback={'true' if endpoint != ENDPOINTS[0] else 'false'}")
        self._send(302, b"", [("Location", "/"), *(("Set-Cookie", cookie) for cookie in cookies)])

    def _mint(self, user: str) -> str:
        base_dir = self.options.base_dir.format(user=user)
        command = [str(self.options.launcher), "auth", "pairing", "create", "--base-dir", base_dir, "--ttl", "5m", "--json"]
        environment = {"PATH": os.environ["PATH"], "HOME": str(Path(base_dir).parent), "T3FLOW_SANDBOX_USER": user}
        try:
            finished = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=MINT_SECONDS, check=False)
            if finished.returncode != 0:
                words = (finished.stdout + finished.stderr).strip().splitlines() or ["no output"]
                raise Unpaired(f"mint for {user} failed: exit {finished.returncode}: {words[-1][:200]}")
            return str(json.loads(finished.stdout)["credential"])
        except (subprocess.TimeoutExpired, ValueError, KeyError, OSError) as error:
            raise Unpaired(f"mint for {user} failed: {type(error).__name__}") from error

    def _exchange(self, user: str, credential: str) -> tuple[str, list[str]]:
        for endpoint in ENDPOINTS:
            try:
                connection = http.client.HTTPConnection("127.0.0.1", self._port(user), timeout=SERVER_SECONDS)
                connection.request("POST", endpoint, json.dumps({"credential": credential}), {"Content-Type": "application/json"})
                answer = connection.getresponse()
                answer.read()
            except (OSError, http.client.HTTPException) as error:
                raise Unpaired(f"pairing exchange for {user} failed: {type(error).__name__}") from error
            finally:
                connection.close()
            if answer.status == 200:
                return endpoint, answer.headers.get_all("Set-Cookie", [])
            if answer.status != 404:
                raise Unpaired(f"pairing for {user} returned {answer.status}")
        raise Unpaired(f"pairing for {user} returned 404")

    def _pass_on(self, user: str) -> None:
        length = int(self.headers.get("Content-Length", 0))
        try:
            connection = http.client.HTTPConnection("127.0.0.1", self._port(user), timeout=SERVER_SECONDS)
            headers = {name: self.headers[name] for name in ("Cookie", "Content-Type") if name in self.headers}
            connection.request(self.command, self.path, self.rfile.read(length) if length else None, headers)
            answer = connection.getresponse()
            self._send(answer.status, answer.read(), [("Content-Type", answer.headers.get("Content-Type", "text/plain"))])
        except (OSError, http.client.HTTPException, Unpaired):
            self._send(502, b"the server does not answer\n")
        finally:
            connection.close()

    def _send(self, status: int, body: bytes, headers: list[tuple[str, str]] | None = None) -> None:
        self.send_response(status)
        for name, value in headers or []:
            self.send_header(name, value)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def _log(self, line: str) -> None:
        with self.log_lock, self.options.log.open("a") as log:
            log.write(f"{time.strftime('%Y-%m-%dT%H:%M:%S%z')} {line}\n")

    def log_message(self, format: str, *arguments: object) -> None:
        """Requests are not logged: a path may carry a secret."""


def main() -> None:
    """Serves until it is ended."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--port", type=int, default=0)
    for name in ("--user-map", "--serve-env-dir", "--launcher", "--log"):
        parser.add_argument(name, type=Path, required=True)
    parser.add_argument("--base-dir", required=True)
    Handler.options = parser.parse_args()
    server = ThreadingHTTPServer(("127.0.0.1", Handler.options.port), Handler)
    print(f"listening on http://127.0.0.1:{server.server_address[1]}", flush=True)
    server.serve_forever()


if __name__ == "__main__":
    main()
