"""What looks like a secret in a text of another program, and the text without it. The one rule for journal, logs, reasons and messages.

Such texts are the logs of servers, the output of npm and of t3, command lines, and errors of libraries. t3 prints an owner's token when it starts;
npm prints settings. A secret is known by its name, by its form, or by its place in a URL, also URL-encoded or in base64.
"""

import re
from collections.abc import Iterable

HIDDEN = "[hidden]"
LINES = re.compile(r"token|credential|pairing url|connection string|secret|bearer|password|cookie", re.IGNORECASE)
"""Words in a line of a log that may have a secret in any form."""
NAMES = r"(?:[\w.-]*(?:token|passw(?:or)?d|secret|credential|api[_-]?key)|_auth|authorization|cookie|t3_session\w*|pwd)"
VALUE = r"(?:(?:Bearer|Basic)\s+)?[^\s\"'&;,)]{4,}"
PATTERNS = (
    (re.compile(rf"(?i)(?<![\w.])(-{{0,2}}{NAMES})([\"']?\s*(?:=|:|%3D|%3A)\s*[\"']?){VALUE}"), rf"\1\2{HIDDEN}"),
    (re.compile(rf"(?i)(--{NAMES})(\s+)(?!-){VALUE}"), rf"\1\2{HIDDEN}"),
    (re.compile(r"(?i)(_authToken|_auth|_password|authorization)(\s+)(?:(?:Bearer|Basic)\s+)?\S+"), rf"\1\2{HIDDEN}"),
    (re.compile(r"(?i)\b(Bearer|Basic)\s+[A-Za-z0-9._~+/=-]{6,}"), rf"\1 {HIDDEN}"),
    (re.compile(r"(://)[^/\s@]*:[^/\s@]*@"), rf"\1{HIDDEN}@"),
    (re.compile(r"(?i)([?&#](?:token|key|password|secret|signature|access_token)=)[^&\s]+"), rf"\1{HIDDEN}"),
    (re.compile(r"\b(?:npm|ghp|gho|ghs|glpat|xox[a-z])[_-][A-Za-z0-9-]{16,}"), HIDDEN),
    (re.compile(r"\b[\w-]{20,}\.[\w-]{20,}"), HIDDEN),
    (re.compile(r"(?<![\w-])[2-9A-HJ-NP-Z]{12}(?![\w-])"), HIDDEN),
)
"""Named values, credentials in URLs, tokens of known forms, signed tokens such as session cookies, and t3's pairing credentials."""
LONG_WORD = re.compile(r"(?<![\w+/=-])[\w+/=-]{16,}")
DIGEST = re.compile(r"sha\d+-")
LEAST_CAPITALS = 3


def hide(text: str) -> str:
    """Return a text with HIDDEN in place of all that looks like a secret. Idempotent."""
    for pattern, replacement in PATTERNS:
        text = pattern.sub(replacement, text)
    return LONG_WORD.sub(lambda found: HIDDEN if _is_random(found[0]) else found[0], text)


def has_secret(line: str) -> bool:
    """Return whether a line of a log may contain a secret."""
    return LINES.search(line) is not None


def harmless_lines(lines: Iterable[str]) -> list[str]:
    """Return the lines of a log that contain no secret. A single word after a line with one may be the rest of it."""
    found, is_after_secret = [], False
    for line in lines:
        is_rest = is_after_secret and len(line.split()) <= 1
        if not is_rest and not has_secret(line):
            found.append(line)
        is_after_secret = is_rest or has_secret(line)
    return found


def _is_random(word: str) -> bool:
    """Return whether a long word has the letters of a token: capitals, small letters and digits in a mix. Digests of packages are public."""
    if DIGEST.match(word) or ("/" in word and not word.endswith("=")):
        return False
    capitals = sum(letter.isupper() for letter in word)
    return capitals >= LEAST_CAPITALS and any(map(str.islower, word)) and any(map(str.isdigit, word))
