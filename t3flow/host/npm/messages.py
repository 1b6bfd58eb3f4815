"""Extract the most informative line from the errors of npm and of install scripts, without secrets."""

import json
import re
from collections.abc import Iterable
from contextlib import suppress

from t3flow.host.children import Finished
from t3flow.t3.secrets import hide

LONGEST = 300
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
MENTIONED = re.compile(
    r"\berror\b|ERR!|\bfatal\b|\bcannot\b|not found|no such|\bdenied\b|\bfailed\b|\b\w*Error:", re.IGNORECASE
)


def summary_line(lines: Iterable[str]) -> str:
    """Return the first line that names an error, otherwise the first that mentions one, otherwise the last informative one, or ""."""
    stripped = [line.strip() for line in lines]
    shown = [line for line in stripped if line and not HINT.search(line) and not EMPTY.match(line)]
    informative = (line for pattern in (NAMED, MENTIONED) for line in shown if pattern.search(line))
    found = next(informative, shown[-1] if shown else "")
    return hide(re.sub(r"^gyp ERR! (?:stack )?", "", found))[:LONGEST]


def parse_error(finished: Finished) -> tuple[str, str]:
    """Return npm's error code ("" if there is none) and one line about the error."""
    with suppress(ValueError, AttributeError):
        error = json.loads(finished.stdout).get("error", {})
        if isinstance(error, dict) and error:
            summary = next((line for line in str(error.get("summary") or "").splitlines() if line.strip()), "")
            return str(error.get("code") or ""), hide(summary.strip())[:LONGEST]
    errors = _npm_errors(finished)
    code = next((line[5:].strip() for line in errors if line.startswith("code ")), "")
    summary = summary_line(line for line in errors if not line.startswith(("code ", "errno ", "syscall ", "path ")))
    return code, summary or summary_line(_lines(finished.stderr) + _lines(finished.stdout)) or "no output"


def error_line(finished: Finished) -> str:
    """Return npm's error in one line: its code and the most informative line."""
    return " ".join(part for part in parse_error(finished) if part)


def script_error(finished: Finished) -> str:
    """Return the error of a failed install script in one line: package, command, exit status, and the script's own output."""
    errors = _npm_errors(finished)
    named = {key: value for key, _, value in (line.partition(" ") for line in reversed(errors))}
    command = next((line.removeprefix("command sh -c ") for line in errors if line.startswith("command sh -c ")), "")
    path = named.get("path", "")
    package = path.rpartition("/node_modules/")[2]
    own = [line for line in _lines(finished.stderr) if not NPM_ERROR.match(line)]
    line = summary_line(own) or summary_line(_lines(finished.stdout))
    subject = f"{package or 'a package'}{f' (`{hide(command)[:80]}`)' if command else ''}"
    return f"{subject} ends with exit code {named.get('code', finished.code)}: {line or error_line(finished)}"


def _npm_errors(finished: Finished) -> list[str]:
    """Return npm's own error lines, without their prefix and without the hint at a log that no longer exists."""
    lines = [line for line in _lines(finished.stderr) if NPM_ERROR.match(line) and not HINT.search(line)]
    return [NPM_ERROR.sub("", line).strip() for line in lines]


def _lines(output: bytes) -> list[str]:
    return output.decode(errors="replace").splitlines()
