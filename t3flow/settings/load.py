"""The settings in force, from one TOML file and the environment; all mistakes are reported at once."""

import difflib
import json
import re
import tomllib
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

from t3flow import T3flowError
from t3flow.settings.schema import Settings, declared, sections
from t3flow.settings.values import window_times

__all__ = [
    "Setting",
    "Settings",
    "SettingsError",
    "check",
    "describe",
    "load",
    "mask",
    "window_times",
]

DEFAULT_FILE = Path("/etc/t3flow/config.toml")
FILE_VARIABLE = "T3FLOW_CONFIG"
PREFIX = "T3FLOW_"
OLD_VARIABLES = {
    "T3_TRACK": "track.tag",
    "T3_PIN": "track.pin",
    "T3_MIGRATE_QUIET_SECONDS": "deferral.quiet_seconds",
}
"""The names that the shell tracker knew. An empty one counts as not set, as it did there."""


SECRET_KEYS = ("queue.url", "dispatch.url")
"""Keys whose values may carry a password, by right or by mistake: shown masked everywhere."""


class SettingsError(T3flowError):
    """Settings that cannot be used. One line for each problem: where, key, what is wrong, what it takes."""

    exit_code = 2

    def __init__(self, problems: list[str]) -> None:
        super().__init__("\n".join(problems))
        self.problems = problems


class Setting(NamedTuple):
    """One setting in force. `value` is what JSON can carry, with passwords masked."""

    key: str
    value: str | int | float | bool | list[str]
    source: str


def load(path: Path | None, environ: Mapping[str, str]) -> Settings:
    """Given the file of `--config` or None, and the environment, return the settings in force.

    Without `path` the file is what T3FLOW_CONFIG names, else the default one, which alone may be missing.
    A value comes from T3FLOW_SECTION__KEY, else from the shell tracker's variable, else from the file,
    else it is the default. Raise SettingsError with every problem, also of a value that another overrides.
    """
    values: dict[str, Any] = {}
    sources = dict.fromkeys(declared(), "default")
    problems: list[str] = []

    file = path or (Path(environ[FILE_VARIABLE]) if environ.get(FILE_VARIABLE) else None)
    if file is not None or _is_there(DEFAULT_FILE):
        file = file or DEFAULT_FILE
        values, problems = _read(file)
        sources |= dict.fromkeys(values, f"file {file}")

    for variable, key in _variables(environ, problems).items():
        section, _, name = key.partition(".")
        value, wrong = _understood({section: {name: _value_of_text(key, environ[variable])}}, variable)
        values |= value
        problems += wrong
        sources[key] = f"environment {variable}"

    if problems:
        raise SettingsError(problems)
    kinds = {
        section: kind(**{name: values[f"{section}.{name}"] for name in kind._fields if f"{section}.{name}" in values})
        for section, kind in sections().items()
    }
    return Settings(**kinds, sources=sources)


def check(path: Path) -> list[str]:
    """Given a settings file, return every problem of it, one line each; none if it can be used."""
    return _read(path)[1]


def describe(settings: Settings) -> list[Setting]:
    """Every setting in force and where it came from, in the order of the file. Passwords are masked."""
    described = []
    for key in declared():
        section, _, name = key.partition(".")
        value = getattr(getattr(settings, section), name)
        value = str(value) if isinstance(value, Path) else value
        described.append(Setting(key, mask(value) if key in SECRET_KEYS else value, settings.sources[key]))
    return described


def mask(url: str) -> str:
    """Given the text of a URL, return it with `***` for a password, also for one in its query.

    A text that is no URL is masked as well: what stands before an `@` may be a misplaced password.
    """
    url = re.sub(r"(?is)([?&]password=)[^&#]*", r"\1***", url)
    return re.sub(
        r"(?is)\A([a-z][a-z0-9+.-]*://)?([^:@/]*:)?.*@", lambda found: f"{found[1] or ''}{found[2] or ''}***@", url
    )


def _is_there(file: Path) -> bool:
    """Whether anything has that name. What cannot be seen counts as there, so that reading it says why."""
    try:
        file.lstat()
    except (FileNotFoundError, NotADirectoryError):
        return False
    except OSError:
        return True
    return True


def _read(file: Path) -> tuple[dict[str, Any], list[str]]:
    """The values of a TOML file by `section.key`, and every problem of it."""
    try:
        content = tomllib.loads(file.read_bytes().decode())
    except OSError as error:
        return {}, [f"{file}: cannot be read ({error.strerror}): name another file with --config or {FILE_VARIABLE}"]
    except UnicodeDecodeError as error:
        return {}, [f"{file}: not UTF-8 (byte {error.start}), as TOML must be: save it as UTF-8"]
    except (ValueError, RecursionError) as error:  # also a number of more digits than Python reads
        return {}, [f"{file}: not TOML: {' '.join(str(error).split())}"]
    return _understood(content, str(file))


def _variables(environ: Mapping[str, str], problems: list[str]) -> dict[str, str]:
    """The variables that set something and their keys, weakest first; adds to `problems` the unknown."""
    found = {variable: key for variable, key in OLD_VARIABLES.items() if environ.get(variable)}
    for variable in sorted(environ):
        section, separator, name = variable.removeprefix(PREFIX).partition("__")
        if not variable.startswith(PREFIX) or not separator:
            continue
        key = f"{section}.{name}".lower()
        if variable == variable.upper() and key in declared():
            found[variable] = key
        else:
            known = [PREFIX + known.upper().replace(".", "__") for known in declared()]
            problems.append(f"{_bare(variable)}: there is no such setting{_guess(variable.upper(), known)}")
    return found


def _value_of_text(key: str, text: str) -> Any:
    """The value that a variable's text means: itself for keys that are texts, else as TOML reads it."""
    is_text = isinstance(declared()[key].default, str | Path)
    if is_text and not (text[:1] in ("'", '"') or (key == "gate.seeds" and text[:1] == "[")):
        return text
    try:
        content = tomllib.loads(f"value = {text}")
    except (ValueError, RecursionError):
        return text
    return content["value"] if len(content) == 1 else text


def _understood(content: dict[str, Any], where: str) -> tuple[dict[str, Any], list[str]]:
    """The values in force of what TOML has, by `section.key`, and every problem, one line each; `where` is their file or variable."""
    values: dict[str, Any] = {}
    problems = []
    for section, table in content.items():
        if section not in sections():
            problems.append(f"{where}: {_bare(section)}: there is no such section{_guess(section, list(sections()))}")
        elif not isinstance(table, dict):
            shown = _shown(table, secret=False)
            problems.append(
                f"{where}: {section}: {shown} is no section; it takes a table: [{section}] and keys below it"
            )
        else:
            for name, value in table.items():
                key = f"{section}.{name}"
                try:
                    values[key] = _value(section, name, value)
                except ValueError as error:
                    problems.append(f"{where}: {section}.{_bare(name)}: {error}")
    return values, problems


def _value(section: str, name: str, value: object) -> Any:
    """One value in force. Raises ValueError with what is wrong and what would be right."""
    key = f"{section}.{name}"
    if key not in declared():
        near = _guess(name, [known.partition(".")[2] for known in declared() if known.startswith(f"{section}.")])
        elsewhere = [f"; did you mean {known}?" for known in declared() if known.endswith(f".{name}")]
        raise ValueError(f"there is no such key{near or ''.join(elsewhere[:1])}")
    try:
        return declared()[key].read(value)
    except ValueError as error:
        shown = _shown(value, secret=key in SECRET_KEYS)
        raise ValueError(f"{shown} {error}; it takes {declared()[key].takes}") from error


def _guess(name: str, known: list[str]) -> str:
    close = difflib.get_close_matches(name, known, n=1)
    return f"; did you mean {close[0]}?" if close else ""


def _shown(value: object, *, secret: bool) -> str:
    """A value as a message may show it: on one line, cut short, without passwords."""
    try:
        text = json.dumps(value, default=str)
    except ValueError:
        text = "a number of thousands of digits"
    text = mask(text) if secret else text
    return text if len(text) <= 80 else f"{text[:80]}…"


def _bare(name: str) -> str:
    """A name as a message may show it: as it is where TOML takes it bare, else quoted and on one line."""
    return name if re.fullmatch(r"[A-Za-z0-9_-]{1,80}", name) else json.dumps(name[:80])
