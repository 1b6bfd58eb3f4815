"""usage: _cheap_server.py SLOT/PROGRAM serve --host HOST --port PORT --base-dir DIR: a stand-in for t3 that takes 10 MB and starts in 40 ms.

It holds the user's database open, answers what an updater and a dispatch ask of a server, and writes to the database at each pairing, as t3 does. The
credential that the dispatch brings was minted by the stand-in of the slot.
"""

import base64
import json
import signal
import socket
import sqlite3
import sys
import uuid

NAME = "t3_session"


def answer(
    request: bytes, version: str, database: sqlite3.Connection, sessions: set[str]
) -> tuple[dict[str, object], str]:
    """Return the document for a request, and the cookie that it sets or ""."""
    line, _, rest = request.partition(b"\r\n")
    method, path, _ = line.decode().split(" ")
    if method == "POST":
        session = str(uuid.uuid4())
        sessions.add(session)
        with database:
            database.execute("update auth_pairing_links set consumed_at = created_at where consumed_at is null")
        value = base64.urlsafe_b64encode(json.dumps({"sid": session}).encode()).decode().rstrip("=")
        return {"authenticated": True}, f"Set-Cookie: {NAME}={value}.signature; Path=/\r\n"
    if path == "/.well-known/t3/environment":
        return {"serverVersion": version}, ""
    cookie = rest.partition(f"{NAME}=".encode())[2].partition(b".")[0]
    known = bool(cookie) and json.loads(base64.urlsafe_b64decode(cookie + b"=="))["sid"] in sessions
    return {"authenticated": known, "auth": {"sessionCookieName": NAME}}, ""


def received(connection: socket.socket) -> bytes:
    """Return one request with its body."""
    request = b""
    while b"\r\n\r\n" not in request:
        part = connection.recv(65536)
        if not part:
            return b""
        request += part
    head, _, body = request.partition(b"\r\n\r\n")
    length = next(
        (int(each.split(b":")[1]) for each in head.lower().split(b"\r\n") if each.startswith(b"content-length")), 0
    )
    while len(body) < length:
        body += connection.recv(65536)
    return request


def main() -> None:
    """Serve until SIGTERM."""
    options = dict(zip(sys.argv[3::2], sys.argv[4::2], strict=True))
    version = sys.argv[1].partition("/versions/")[2].partition("/")[0]
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    database = sqlite3.connect(f"{options['--base-dir']}/userdata/state.sqlite", timeout=5)
    database.execute("pragma journal_mode = wal")
    database.execute("select count(*) from auth_pairing_links").fetchone()
    sessions: set[str] = set()
    listener = socket.socket()
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    listener.bind((options["--host"], int(options["--port"])))
    listener.listen(64)
    while True:
        connection, _ = listener.accept()
        with connection:
            connection.settimeout(5)
            try:
                if request := received(connection):
                    document, cookie = answer(request, version, database, sessions)
                    body = json.dumps(document).encode()
                    head = f"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\n{cookie}Content-Length: {len(body)}\r\nConnection: close\r\n\r\n"
                    connection.sendall(head.encode() + body)
            except (OSError, sqlite3.Error) as error:
                print(error, flush=True)


if __name__ == "__main__":
    main()
