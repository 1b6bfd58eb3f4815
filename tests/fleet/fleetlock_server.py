"""usage: fleetlock_server.py ADDRESS PORT SLOTS STATE: a server of the FleetLock protocol, written from its specification for these tests alone.

The specification is Zincati's docs/development/fleetlock/protocol.md. It asks for a counting semaphore for each group, with owners and recursion:
a client that holds a slot gets it again, a release of what is not held is a success, and nobody releases what another client holds.
Anything that the specification does not allow is refused. SLOTS are for each group; STATE keeps the holders over a restart. Every request is printed.
"""

import json
import os
import re
import sys
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

GROUP = re.compile(r"[a-zA-Z0-9.-]+\Z")
MOST_BYTES = 4096


class Refused(Exception):
    """A request that gets no slot, with the status and the kind of error that the client is told."""

    def __init__(self, status: int, kind: str, value: str) -> None:
        super().__init__(value)
        self.status, self.kind, self.value = status, kind, value


class Semaphores:
    """The holders of each group."""

    def __init__(self, slots: int, state: Path) -> None:
        self._slots, self._state = slots, state
        self._lock = threading.Lock()
        self._holders: dict[str, list[str]] = json.loads(state.read_text()) if state.exists() else {}

    def lock(self, group: str, client: str) -> None:
        """Give the client a slot; it may have one already."""
        with self._lock:
            holders = self._holders.setdefault(group, [])
            if client in holders:
                return
            if len(holders) >= self._slots:
                raise Refused(
                    404, "failed_lock_semaphore_full", "semaphore currently full, all slots are locked already"
                )
            holders.append(client)
            self._keep()

    def unlock(self, group: str, client: str) -> None:
        """Take the client's slot back, if it has one."""
        with self._lock:
            if client in self._holders.get(group, []):
                self._holders[group].remove(client)
                self._keep()

    def _keep(self) -> None:
        beside = self._state.with_suffix(".new")
        beside.write_text(json.dumps(self._holders))
        os.replace(beside, self._state)


class Handler(BaseHTTPRequestHandler):
    """One request: checked in the order of the specification, then done."""

    protocol_version = "HTTP/1.1"
    semaphores: Semaphores

    def do_POST(self) -> None:
        """Lock or unlock."""
        try:
            body = self._body()
            operation = {"/base/v1/pre-reboot": self.semaphores.lock, "/base/v1/steady-state": self.semaphores.unlock}
            if self.path not in operation:
                raise Refused(404, "no_such_endpoint", f"there is no {self.path}")
            if self.headers.get_all("fleet-lock-protocol") != ["true"]:
                raise Refused(400, "no_protocol_header", "the header fleet-lock-protocol is not true")
            client, group = parameters(body, self.headers.get("Content-Type", ""))
            operation[self.path](group, client)
        except Refused as refused:
            self._answer(refused.status, {"kind": refused.kind, "value": refused.value})
        else:
            self._answer(200, None)

    def _other(self) -> None:
        self.close_connection = True
        self._answer(405, {"kind": "wrong_method", "value": f"{self.command} is not POST"})

    do_GET = do_HEAD = do_PUT = do_DELETE = do_PATCH = _other

    def _body(self) -> bytes:
        length = self.headers.get("Content-Length", "")
        if not length.isdecimal() or int(length) > MOST_BYTES:
            self.close_connection = True
            raise Refused(411, "no_length", "the body has no length, or a great one")
        return self.rfile.read(int(length))

    def _answer(self, status: int, error: dict[str, str] | None) -> None:
        content = json.dumps(error).encode() if error else b""
        self.send_response(status)
        if error:
            self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        self.wfile.write(content)
        print(json.dumps({"path": self.path, "status": status, **(error or {})}), flush=True)

    def log_message(self, format: str, *args: Any) -> None:
        """Print nothing else."""


def parameters(body: bytes, content_type: str) -> tuple[str, str]:
    """Return the client and the group of a request's body. Raise Refused if it is not as specified."""
    if content_type.partition(";")[0].strip().lower() != "application/json":
        raise Refused(415, "wrong_content_type", f"the content type is {content_type!r}, not application/json")
    try:
        asked = json.loads(body)
    except ValueError as error:
        raise Refused(400, "no_json", f"the body is no JSON: {error}") from error
    given = asked.get("client_params") if isinstance(asked, dict) else None
    if not isinstance(given, dict):
        raise Refused(400, "no_client_params", "client_params is no object")
    client, group = given.get("id"), given.get("group")
    if not isinstance(client, str) or not client:
        raise Refused(400, "no_client_id", "client_params.id is no text, or an empty one")
    if not isinstance(group, str) or not GROUP.match(group):
        raise Refused(400, "no_client_group", "client_params.group is no text, or not a group's name")
    if set(asked) != {"client_params"} or set(given) != {"id", "group"}:
        raise Refused(400, "unknown_keys", "the body has keys that the protocol does not know")
    return client, group


def main() -> None:
    """Serve until the end."""
    address, port, slots, state = sys.argv[1:]
    Handler.semaphores = Semaphores(int(slots), Path(state))
    server = ThreadingHTTPServer((address, int(port)), Handler)
    server.daemon_threads = True
    print("ready", flush=True)
    server.serve_forever()


if __name__ == "__main__":
    main()
