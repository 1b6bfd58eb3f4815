"""How the sandbox's HTTP servers run as programs: they say where they listen, and end cleanly when they are told to."""

import signal
import threading
from http.server import ThreadingHTTPServer


class LocalServer(ThreadingHTTPServer):
    """An HTTP server on 127.0.0.1 with a thread a request; port 0 takes a free one."""

    daemon_threads = True
    request_queue_size = 128

    @property
    def url(self) -> str:
        """Where it answers, without a slash at the end."""
        return f"http://127.0.0.1:{self.server_address[1]}"


def serve_until_terminated(server: LocalServer) -> None:
    """Prints `listening on URL` and serves until SIGTERM or SIGINT; requests under way are dropped then."""

    def end(*_: object) -> None:
        threading.Thread(target=server.shutdown).start()  # called in this thread it would wait for itself

    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, end)
    print(f"listening on {server.url}", flush=True)
    server.serve_forever(poll_interval=0.1)
    server.server_close()
