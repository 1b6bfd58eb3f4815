"""The reverse proxy in front of the page: takes a browser's requests on a port of loopback, and says who asks."""

import http.client
import socketserver
import threading
from contextlib import suppress
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from typing import Any

from pages import HEADER, UnixConnection

HOP_BY_HOP = ("connection", "transfer-encoding", "keep-alive")


class Proxy(socketserver.ThreadingMixIn, HTTPServer):
    """A proxy for one person at a time."""

    daemon_threads = True

    def __init__(self, socket: Path, identity: str) -> None:
        self.page, self.identity = socket, identity
        super().__init__(("127.0.0.1", 0), Handler)
        threading.Thread(target=self.serve_forever, daemon=True).start()

    @property
    def url(self) -> str:
        """Return the address for a browser."""
        return f"http://127.0.0.1:{self.server_port}"

    def close(self) -> None:
        """Stop."""
        self.shutdown()
        self.server_close()


class Handler(BaseHTTPRequestHandler):
    """One request of a browser, passed on."""

    server: Proxy

    def relay(self) -> None:
        """Pass a request on with the person's name, and the answer back as it comes."""
        headers = {
            key: value for key, value in self.headers.items() if key.lower() not in (*HOP_BY_HOP, HEADER.lower())
        }
        if self.server.identity:
            headers[HEADER] = self.server.identity
        body = self.rfile.read(int(self.headers.get("content-length") or 0))
        connection = UnixConnection(self.server.page, timeout=60)
        with suppress(OSError, http.client.HTTPException):
            connection.request(self.command, self.path, body or None, headers)
            answer = connection.getresponse()
            self.send_response_only(answer.status)
            for key, value in answer.getheaders():
                if key.lower() not in HOP_BY_HOP:
                    self.send_header(key, value)
            self.end_headers()
            while part := answer.read1(65536):
                self.wfile.write(part)
        connection.close()

    do_GET = do_POST = relay

    def log_message(self, *words: Any) -> None:
        """Say nothing."""
