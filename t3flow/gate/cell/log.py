"""What in a server's log is trouble with a migration: a line of the levels ERROR and FATAL; the mere word "failed" is none."""

import re

ERROR_LINE = re.compile(r"\b(ERROR|FATAL)\b")
LEVELLED_LINE = re.compile(r"\b(TRACE|DEBUG|INFO|WARN|WARNING|ERROR|FATAL)\b")
LEVEL_WITHIN = 60
"""A level stands at the beginning of a line, after its time."""
MIGRATION = re.compile(r"migrat", re.IGNORECASE)
FAILED_MIGRATION = re.compile(r"migrat.*\b(error|fail\w*)\b|\b\w*(error|fail\w*)\b.*migrat", re.IGNORECASE)
BARE_ERROR = re.compile(r"^\s*(uncaught )?\w*(error|exception)\b.*migrat|migration\S* \S+ failed", re.IGNORECASE)


def migration_error(lines: list[str]) -> str:
    """Return the first line about a migration that failed, or "". A line without a level belongs to the one before it."""
    level = ""
    for line in lines:
        begins = LEVELLED_LINE.search(line[:LEVEL_WITHIN]) is not None
        if begins:
            level = "error" if ERROR_LINE.search(line[:LEVEL_WITHIN]) else "fine"
        trouble = BARE_ERROR if level == "" else MIGRATION if begins else FAILED_MIGRATION
        if level != "fine" and trouble.search(line):
            return line.strip()
    return ""
