"""Read one small JSON document that another account wrote, as hostile input: bounded, never blocking, never following a link."""

import json
import os
import stat
from typing import Any

from t3flow import T3flowError

MAX_BYTES = 4096


class BadDocument(T3flowError):
    """A file that is no document of the account that should have written it. The text says why, without its content."""


def read_document(folder: int, name: str, uid: int) -> dict[str, Any]:
    """Return the JSON object in a file of an open folder. Raises BadDocument; FileNotFoundError for a missing file.

    It must be a regular file with one link, of the account `uid`, of at most MAX_BYTES.
    """
    try:
        descriptor = os.open(name, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC, dir_fd=folder)
    except FileNotFoundError:
        raise
    except OSError as error:
        raise BadDocument(f"it cannot be opened ({os.strerror(error.errno or 0)})") from error
    try:
        status = os.fstat(descriptor)
        if not stat.S_ISREG(status.st_mode):
            raise BadDocument("it is not a regular file")
        if status.st_nlink != 1 or status.st_uid != uid:
            raise BadDocument("it has another owner, or several names")
        text = os.read(descriptor, MAX_BYTES + 1)
    except OSError as error:
        raise BadDocument(f"it cannot be read ({os.strerror(error.errno or 0)})") from error
    finally:
        os.close(descriptor)
    if len(text) > MAX_BYTES:
        raise BadDocument(f"it is larger than {MAX_BYTES} bytes")
    try:
        found = json.loads(text.decode())
    except (ValueError, RecursionError) as error:
        raise BadDocument("it is not JSON") from error
    if not isinstance(found, dict):
        raise BadDocument("it is not a JSON object")
    return found


def text_of(document: dict[str, Any], key: str, longest: int) -> str:
    """Return a text of a document in one line, "" where it is missing or null. Raises BadDocument for anything else."""
    value = document.get(key)
    if value is None:
        return ""
    if not isinstance(value, str) or len(value) > longest or not value.isprintable():
        raise BadDocument(f"{key} is not a text of at most {longest} printable characters in one line")
    return value.strip()
