"""Channels of Apprise (`notify.urls`): each message is sent by a short-lived child without rights, which gets the URL on stdin."""

import json
import sys
from importlib.util import find_spec
from typing import Any

from t3flow.host.accounts import PRIVILEGE_TOOL, is_root
from t3flow.host.children import ChildError, Children
from t3flow.service.notifications.http_channel import NotSent

PROGRAM = "t3flow.service.notifications.apprise_child"
TIMEOUT_SECONDS = 40.0
NO_ACCOUNT = 2**32 - 10
"""A uid that no account has: neither the gate's account, which runs code from the registry, nor another service can look into the child."""
MISSING = "the extra is missing; run: pip install 't3flow[notify]'"
KINDS = {"failed": "failure", "rolled_back": "failure", "frozen": "warning", "recovered": "success", "updated": "info"}


def is_installed() -> bool:
    """Return whether the extra is there."""
    return find_spec("apprise") is not None


def send_apprise(children: Children, url: str, key: str, document: dict[str, Any]) -> None:
    """Send a message to one URL of Apprise. Raise NotSent."""
    if not is_installed():
        raise NotSent(MISSING)
    asked = {"url": url, "title": document["title"], "body": document["text"], "kind": KINDS[document["occasion"]]}
    words = [*_without_rights(), sys.executable, "-P", "-m", PROGRAM]
    environment = {"HOME": "/nonexistent", "PYTHONDONTWRITEBYTECODE": "1"}
    try:
        ended = children.run(words, timeout_seconds=TIMEOUT_SECONDS, environment=environment, text=json.dumps(asked))
    except ChildError as error:
        raise NotSent(str(error)) from None
    try:
        answer = json.loads(ended.stdout)
        ok, reason = answer["ok"] is True, str(answer["reason"])
    except (ValueError, TypeError, KeyError):
        ok, reason = False, f"the child ended with {ended.code}"
    if not ok:
        raise NotSent(reason)


def _without_rights() -> list[str]:
    """Return the words before a command that take all rights from it; none for a caller that has none."""
    if not is_root():
        return []
    ids = [f"--reuid={NO_ACCOUNT}", f"--regid={NO_ACCOUNT}", "--clear-groups"]
    rights = ["--no-new-privs", "--inh-caps=-all", "--bounding-set=-all"]
    return [PRIVILEGE_TOOL, *ids, *rights, "--pdeathsig=KILL", "--"]
