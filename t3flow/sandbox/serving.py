"""The HTTP servers of the sandbox as programs: print the URL, and shut down cleanly on a signal."""

import signal
import threading
from http.server import ThreadingHTTPServer


class LocalServer(ThreadingHTTPServer):
    """An HTTP server on 127.0.0.1 with a thread for each request. Port 0 chooses a free one."""

    daemon_threads = True
    request_queue_size = 128

    @property
    def url(self) -> str:
        """Return the URL without a trailing slash."""
        return f"http://127.0.0.1:{self.server_address[1]}"


def serve_until_terminated(server: LocalServer) -> None:
    """Print `listening on URL` and serve until SIGTERM or SIGINT, which drop requests in flight."""

    def end(*_: object) -> None:
        threading.Thread(target=server.shutdown).start()  # in this thread it would deadlock

    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, end)
    print(f"listening on {server.url}", flush=True)
    server.serve_forever(poll_interval=0.1)
    server.server_close()
