"""What a program under trial prints: the most informative line of it, without credentials, and errors about migrations in a server's log."""

import re

from t3flow.t3 import secrets

LOCKED = "database is locked"
ERROR_LINES = re.compile(r"\bERROR\b|\bFATAL\b|\b\w*(Error|Exception)\b")
WORD = re.compile(r"[A-Za-z]{2}")
"""A server's log also contains QR codes."""
LONG_WORD = re.compile(r"[\w+/=-]{16,}")
LINE_LENGTH, TEXT_LENGTH = 200, 400
ERROR_LEVEL = re.compile(r"\b(ERROR|FATAL)\b")
ANY_LEVEL = re.compile(r"\b(TRACE|DEBUG|INFO|WARN|WARNING|ERROR|FATAL)\b")
LEVEL_WITHIN = 60
"""A level is at the beginning of a line, after the time."""
MIGRATION = re.compile(r"migrat", re.IGNORECASE)
FAILED_MIGRATION = re.compile(r"migrat.*\b(error|fail\w*)\b|\b\w*(error|fail\w*)\b.*migrat", re.IGNORECASE)
BARE_ERROR = re.compile(r"^\s*(uncaught )?\w*(error|exception)\b.*migrat|migration\S* \S+ failed", re.IGNORECASE)


def last_line(text: str) -> str:
    """Return the most informative line: the first that names an error, otherwise the last. Lines about secrets only if there is no other error."""
    lines = [line.strip() for line in text.splitlines() if WORD.search(line)]
    harmless = secrets.harmless_lines(lines)
    errors = [line for line in harmless if ERROR_LINES.search(line)]
    redacted = [LONG_WORD.sub("…", line) for line in lines if secrets.has_secret(line) and ERROR_LINES.search(line)]
    return secrets.hide(next(iter([*errors, *redacted, *reversed(harmless)]), "nothing"))[:LINE_LENGTH]


def clean(text: str) -> str:
    """Return a text as one line for the journal, without anything that looks like a credential or a token."""
    return secrets.hide(" ".join(text.split()))[:TEXT_LENGTH]


def migration_error(lines: list[str]) -> str:
    """Return the first log line about a failed migration, or "": a line of level ERROR or FATAL, not the mere word "failed".

    A line without a level belongs to the one before it.
    """
    level = ""
    for line in lines:
        has_level = ANY_LEVEL.search(line[:LEVEL_WITHIN]) is not None
        if has_level:
            level = "error" if ERROR_LEVEL.search(line[:LEVEL_WITHIN]) else "fine"
        pattern = BARE_ERROR if level == "" else MIGRATION if has_level else FAILED_MIGRATION
        if level != "fine" and pattern.search(line):
            return line.strip()
    return ""
