"""The spool: one small file for each action that a person asked for. The consumer reads it as hostile input, decides, and removes it."""

import json
import os
import re
import secrets
from contextlib import suppress
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

FOLDER = "requests"
MAX_WAITING = 64
"""How many requests may wait at a time. More than a few means that the consumer does not take them."""
MAX_BYTES = 4096
ID = re.compile(r"[0-9a-f]{32}")


class CannotRequest(Exception):
    """The request cannot be handed over. The text says why, and what to do."""


class Spool:
    """The folder of requests below the state folder."""

    def __init__(self, state_dir: Path) -> None:
        self.folder = state_dir / FOLDER

    def put(self, identity: str, action: str, fields: dict[str, str], request_id: str = "") -> str:
        """Write a request, complete or not at all, and return its id. Raises CannotRequest.

        Idempotent with a `request_id`: a form that is sent twice is one request, while the first of them waits.
        """
        request_id = request_id if ID.fullmatch(request_id) else secrets.token_hex(16)
        at = datetime.now(UTC).isoformat(timespec="seconds")
        document = {"schema": 1, "id": request_id, "at": at, "identity": identity, "action": action, **fields}
        temporary = self.folder / f".{request_id}.tmp"
        try:
            if len(self._names()) >= MAX_WAITING:
                raise CannotRequest(
                    f"{MAX_WAITING} requests wait already, so this one was not taken; see whether the consumer runs: t3flow status"
                )
            descriptor = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_NOFOLLOW, 0o600)
            with open(descriptor, "w") as file:
                json.dump(document, file, ensure_ascii=False)
                file.flush()
                os.fsync(descriptor)
            temporary.rename(self.folder / f"{request_id}.json")
        except OSError as error:
            with suppress(OSError):
                temporary.unlink()
            raise CannotRequest(
                f"the request cannot be written to {self.folder} ({error.strerror}); nothing was done; see t3flow doctor"
            ) from error
        return request_id

    def waiting(self) -> list[dict[str, Any]]:
        """Return the requests that the consumer has not taken yet, oldest first. Files that are no requests are left out."""
        found = []
        for name in self._names()[: 2 * MAX_WAITING]:
            with suppress(OSError, ValueError, RecursionError):
                document = self._read(self.folder / name)
                if isinstance(document, dict) and document.get("id") == name.removesuffix(".json"):
                    found.append({key: value for key, value in document.items() if isinstance(value, str)})
        return sorted(found, key=lambda each: each.get("at", ""))

    def _names(self) -> list[str]:
        with suppress(OSError), os.scandir(self.folder) as entries:
            return [
                entry.name
                for entry in entries
                if ID.fullmatch(entry.name.removesuffix(".json")) and entry.name.endswith(".json")
            ]
        return []

    def _read(self, path: Path) -> Any:
        descriptor = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK)
        with open(descriptor, "rb") as file:
            return json.loads(file.read(MAX_BYTES))
