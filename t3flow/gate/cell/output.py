"""What a candidate says, for a journal that people read: the line that tells most, without credentials and tokens."""

import re

LOCKED = "database is locked"
SECRET_LINES = re.compile(r"token|credential|pairing url|connection string|secret|bearer", re.IGNORECASE)
ERROR_LINES = re.compile(r"\bERROR\b|\bFATAL\b|\b\w*(Error|Exception)\b")
CREDENTIAL = re.compile(r"\b[2-9A-HJ-NP-Z]{12}\b|[\w-]{20,}\.[\w-]{20,}")
"""A pairing credential, and a signed token."""
WORD = re.compile(r"[A-Za-z]{2}")
"""A server's log has QR codes, too."""
LONG_WORD = re.compile(r"[\w+/=-]{16,}")
LINE_LENGTH, TEXT_LENGTH = 200, 400


def has_secret(line: str) -> bool:
    """Return whether a line may show a secret."""
    return SECRET_LINES.search(line) is not None


def last_line(text: str) -> str:
    """Return the line that tells most: the first that names an error, else the last. One that speaks of secrets only where there is no other."""
    lines = [line.strip() for line in text.splitlines() if WORD.search(line)]
    harmless = [line for line in lines if not has_secret(line)]
    errors = [line for line in harmless if ERROR_LINES.search(line)]
    guarded = [LONG_WORD.sub("…", line) for line in lines if has_secret(line) and ERROR_LINES.search(line)]
    return next(iter([*errors, *guarded, *reversed(harmless)]), "nothing")[:LINE_LENGTH]


def clean(text: str) -> str:
    """Return a line for the journal: what looks like a credential or a token is taken out."""
    return CREDENTIAL.sub("…", " ".join(text.split()))[:TEXT_LENGTH]
