"""What npm and the scripts that it runs say went wrong: one line of it, the one that tells most, without secrets."""

import json
import re
from collections.abc import Iterable
from contextlib import suppress

from t3flow.host.children import Finished

LONGEST = 300
HIDDEN = "[hidden]"
SECRETS = (
    (re.compile(r"\bnpm_[A-Za-z0-9]{20,}"), HIDDEN),
    (re.compile(r"(_authToken|_auth|_password|authorization)(\s*[=:]\s*|\s+)(?:(?:Bearer|Basic)\s+)?\S+", re.IGNORECASE), rf"\1\2{HIDDEN}"),
    (re.compile(r"\b(Bearer|Basic)\s+[A-Za-z0-9._~+/=-]{6,}", re.IGNORECASE), rf"\1 {HIDDEN}"),
    (re.compile(r"(://)[^/\s:@]*:[^/\s@]+@"), rf"\1{HIDDEN}@"),
    (re.compile(r"([?&](?:token|key|password|secret|signature|access_token)=)[^&\s]+", re.IGNORECASE), rf"\1{HIDDEN}"),
)  # fmt: skip
HINT = re.compile(
    r"A complete log of this run can be found in|npm-debug\.log|^npm (?:warn|notice|info|http|verb\w*|sill?y?) ",
    re.IGNORECASE,
)
NPM_ERROR = re.compile(r"^npm (?:error|ERR!)\s?", re.IGNORECASE)
EMPTY = re.compile(
    r"^(?:gyp (?:ERR!|info) (?:not ok|cwd|command|node|System|it worked|ok|using|stack\s+at|configure error|build error|clean error)\b.*"
    r"|at .*|node:[\w/]+:\d+|Node\.js v[\d.]+|throw .*|[\s^~|{}]*|\}.*|rebuilt dependencies .*|> .*)$"
)
NAMED = re.compile(r"\b\w*Error: |\b(?:fatal|error): ", re.IGNORECASE)
TELLING = re.compile(
    r"\berror\b|ERR!|\bfatal\b|\bcannot\b|not found|no such|\bdenied\b|\bfailed\b|\b\w*Error:", re.IGNORECASE
)


def cleaned(text: str) -> str:
    """A text without what looks like a token, a password or credentials in an address."""
    for pattern, replacement in SECRETS:
        text = pattern.sub(replacement, text)
    return text


def telling_line(lines: Iterable[str]) -> str:
    """Of the lines that a program printed the first that names its error, or speaks of one, else the last that says something; "" for none."""
    said = [line.strip() for line in lines]
    said = [line for line in said if line and not HINT.search(line) and not EMPTY.match(line)]
    telling = (line for pattern in (NAMED, TELLING) for line in said if pattern.search(line))
    found = next(telling, said[-1] if said else "")
    return cleaned(re.sub(r"^gyp ERR! (?:stack )?", "", found))[:LONGEST]


def error_of(finished: Finished) -> tuple[str, str]:
    """npm's code for what went wrong ("" where it gave none), and one line about it."""
    with suppress(ValueError, AttributeError):
        error = json.loads(finished.stdout).get("error", {})
        if isinstance(error, dict) and error:
            summary = next((line for line in str(error.get("summary") or "").splitlines() if line.strip()), "")
            return str(error.get("code") or ""), cleaned(summary.strip())[:LONGEST]
    errors = _npm_errors(finished)
    code = next((line[5:].strip() for line in errors if line.startswith("code ")), "")
    said = telling_line(line for line in errors if not line.startswith(("code ", "errno ", "syscall ", "path ")))
    return code, said or telling_line(_lines(finished.stderr) + _lines(finished.stdout)) or "no output"


def error_line(finished: Finished) -> str:
    """What npm says went wrong, in one line: its code and the line that tells most."""
    return " ".join(part for part in error_of(finished) if part)


def script_line(finished: Finished) -> str:
    """What an install script that fails says: the package, its command, its exit code, and the script's own line."""
    errors = _npm_errors(finished)
    named = {key: value for key, _, value in (line.partition(" ") for line in reversed(errors))}
    command = next((line.removeprefix("command sh -c ") for line in errors if line.startswith("command sh -c ")), "")
    path = named.get("path", "")
    package = path.rpartition("/node_modules/")[2]
    own = [line for line in _lines(finished.stderr) if not NPM_ERROR.match(line)]
    line = telling_line(own) or telling_line(_lines(finished.stdout))
    what = f"{package or 'a package'}{f' (`{cleaned(command)[:80]}`)' if command else ''}"
    return f"{what} ends with exit code {named.get('code', finished.code)}: {line or error_line(finished)}"


def _npm_errors(finished: Finished) -> list[str]:
    """npm's own lines about an error, without its mark and without the hint at a log that is gone by then."""
    lines = [line for line in _lines(finished.stderr) if NPM_ERROR.match(line) and not HINT.search(line)]
    return [NPM_ERROR.sub("", line).strip() for line in lines]


def _lines(output: bytes) -> list[str]:
    return output.decode(errors="replace").splitlines()
