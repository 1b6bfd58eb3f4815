"""The program that sends one message by Apprise: `python -m t3flow.service.notifications.apprise_child`, as an account without rights.

Reads {"url", "title", "body", "kind"} as JSON from stdin and prints {"ok", "reason"}. Some of Apprise's services act on the host itself or read files
that their URL names. An audit hook allows only network sockets, and reading of the program itself and of the system's certificates.
"""

import ctypes
import json
import logging
import os
import re
import resource
import sys
from typing import Any
from urllib.parse import unquote

CPU_SECONDS, MEMORY_BYTES = 20, 1024**3
TIMEOUT_SECONDS = 10
READABLE = (
    *(sys.prefix, sys.base_prefix, *(path for path in sys.path if path)),
    *("/etc/ssl", "/usr/lib/ssl", "/etc/pki", "/usr/share/zoneinfo", "/etc/mime.types", "/dev/urandom"),
)
FORBIDDEN = (
    "subprocess.",
    "os.exec",
    "os.posix_spawn",
    "os.spawn",
    "os.system",
    "os.fork",
    "syslog.",
    "os.remove",
    "os.rename",
    "os.mkdir",
    "shutil.",
)
PR_SET_DUMPABLE = 4
SURE_LENGTH = 4
"""A part of a URL that is so long is masked also within a word."""


class Refused(PermissionError):
    """Apprise tried something else than to send over the network."""


def audit(event: str, args: tuple[Any, ...]) -> None:
    """Raise Refused for anything but network and reading of the program."""
    if event.startswith(FORBIDDEN):
        raise Refused(event)
    if event == "socket.connect" and isinstance(args[1], (str, bytes)):
        raise Refused("local socket")
    if event == "open" and isinstance(args[0], (str, bytes)):
        path, mode, flags = os.fsdecode(args[0]), args[1], args[2]
        writes = flags & (os.O_WRONLY | os.O_RDWR | os.O_CREAT) if mode is None else set(mode) & set("wax+")
        if writes or not os.path.abspath(path).startswith(READABLE):
            raise Refused("file")


def confine() -> None:
    """Bound memory, CPU, and files, and hide this process's memory from others of its account."""
    ctypes.CDLL(None).prctl(PR_SET_DUMPABLE, 0, 0, 0, 0)
    resource.setrlimit(resource.RLIMIT_CPU, (CPU_SECONDS, CPU_SECONDS))
    resource.setrlimit(resource.RLIMIT_AS, (MEMORY_BYTES, MEMORY_BYTES))
    resource.setrlimit(resource.RLIMIT_FSIZE, (0, 0))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))


class Last(logging.Handler):
    """Keeps the last warning or error of Apprise."""

    text = ""

    def emit(self, record: logging.LogRecord) -> None:
        """Keep a record's text."""
        self.text = record.getMessage()


def redact(text: str, url: str) -> str:
    """Return a text on one line without any part of a URL but its scheme."""
    rest = url.partition("://")[2]
    raw = {url, rest, *re.split(r"[/?&=:@,#+]", rest)}
    parts = raw | {unquote(part) for part in raw} | set(rest.split("%"))
    for part in sorted(parts, key=len, reverse=True):
        if len(part) >= SURE_LENGTH:
            text = text.replace(part, "***")
        elif len(part) > 1:
            text = re.sub(rf"(?<!\w){re.escape(part)}(?!\w)", "***", text)
    return " ".join("".join(c if c.isprintable() else " " for c in text).split())[:300]


def send(asked: dict[str, str]) -> tuple[bool, str]:
    """Send a message; return whether the service took it, and why not."""
    import apprise
    import requests

    last = Last(logging.WARNING)
    logging.getLogger("apprise").addHandler(last)
    logging.getLogger("apprise").propagate = False
    vars(requests.models)["REDIRECT_STATI"] = ()  # a redirect would lead elsewhere and turn POST into GET
    asset = apprise.AppriseAsset(secure_logging=True, plugin_paths=[])
    for name, value in {
        "allow_templates": False,
        "http_redirects": False,
        "pem_autogen": False,
        "pgp_autogen": False,
    }.items():
        if hasattr(asset, name):
            setattr(asset, f"_{name}" if hasattr(asset, f"_{name}") else name, value)
    service = apprise.Apprise.instantiate(asked["url"], asset=asset, suppress_exceptions=True)
    if service is None:
        return False, last.text or "Apprise knows no such service, or the URL is incomplete"
    service.socket_connect_timeout = service.socket_read_timeout = float(TIMEOUT_SECONDS)
    if not service.enabled:
        return False, "Apprise lacks a package for this service"
    sent = service.notify(body=asked["body"], title=asked["title"], notify_type=asked["kind"], body_format="text")
    return bool(sent), last.text or ("" if sent else "the service did not take the message")


def main() -> None:
    """Send the message that stdin names, and print the result."""
    confine()
    asked = json.load(sys.stdin)
    sys.dont_write_bytecode = True
    sys.addaudithook(audit)
    try:
        ok, reason = send(asked)
    except Refused as error:
        ok, reason = False, f"this service needs more than the network ({error}), which t3flow does not allow"
    except Exception as error:
        ok, reason = False, f"{type(error).__name__}: {error}"
    print(json.dumps({"ok": ok, "reason": "" if ok else redact(reason, asked["url"])}))


if __name__ == "__main__":
    main()
