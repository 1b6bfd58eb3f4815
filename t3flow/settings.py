"""The settings in force, from one TOML file and the environment; all mistakes are reported at once."""

import difflib
import json
import re
import tomllib
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal, NamedTuple, get_args, get_origin

from pydantic import ValidationError
from pydantic.fields import FieldInfo

from t3flow.errors import T3flowError
from t3flow.settings_schema import Settings, keys, sections
from t3flow.settings_values import Takes, window_times

__all__ = [
    "Setting",
    "Settings",
    "SettingsError",
    "check",
    "describe",
    "load",
    "mask",
    "takes",
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
    merged: dict[str, dict[str, Any]] = {}
    sources: dict[str, str] = {}
    problems: list[str] = []

    file = path or (Path(environ[FILE_VARIABLE]) if environ.get(FILE_VARIABLE) else None)
    if file is not None or _is_there(DEFAULT_FILE):
        file = file or DEFAULT_FILE
        content, problems = _read(file)
        for section, table in content.items():
            merged[section] = dict(table) if isinstance(table, dict) else {}
            sources |= {f"{section}.{key}": f"file {file}" for key in merged[section]}

    for variable, key in _variables(environ, problems).items():
        section, _, name = key.partition(".")
        value = _value_of_text(key, environ[variable])
        problems += _problems({section: {name: value}}, variable)
        merged.setdefault(section, {})[name] = value
        sources[key] = f"environment {variable}"

    if problems:
        raise SettingsError(problems)
    settings = Settings.model_validate(merged)
    settings._sources.update(sources)
    return settings


def check(path: Path) -> list[str]:
    """Given a settings file, return every problem of it, one line each; none if it can be used."""
    return _read(path)[1]


def describe(settings: Settings) -> list[Setting]:
    """Every setting in force and where it came from, in the order of the file. Passwords are masked."""
    sources = settings.sources
    shown = settings.model_dump(mode="json", by_alias=True)
    described = []
    for key in keys():
        section, _, name = key.partition(".")
        value = shown[section][name]
        described.append(Setting(key, mask(value) if key in SECRET_KEYS else value, sources[key]))
    return described


def mask(url: str) -> str:
    """Given the text of a URL, return it with `***` for a password, also for one in its query.

    A text that is no URL is masked as well: what stands before an `@` may be a misplaced password.
    """
    url = re.sub(r"(?is)([?&]password=)[^&#]*", r"\1***", url)
    return re.sub(
        r"(?is)\A([a-z][a-z0-9+.-]*://)?([^:@/]*:)?.*@", lambda found: f"{found[1] or ''}{found[2] or ''}***@", url
    )


def takes(key: str) -> str:
    """What a `section.key` takes, in words that end "it takes …"."""
    info = _field(key)
    if info is None:
        raise KeyError(key)
    for marker in info.metadata:
        if isinstance(marker, Takes):
            return marker.text
    if get_origin(info.annotation) is Literal:
        return " or ".join(get_args(info.annotation))
    return "true or false"


def _field(key: str) -> FieldInfo | None:
    """The declaration of a `section.key`, or None if there is no such key."""
    section, _, name = key.partition(".")
    if section not in sections():
        return None
    fields = sections()[section].model_fields
    return {info.alias or field: info for field, info in fields.items()}.get(name)


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
    """What a TOML file says, and every problem of it."""
    try:
        content = tomllib.loads(file.read_bytes().decode())
    except OSError as error:
        return {}, [f"{file}: cannot be read ({error.strerror}): name another file with --config or {FILE_VARIABLE}"]
    except UnicodeDecodeError as error:
        return {}, [f"{file}: not UTF-8 (byte {error.start}), as TOML must be: save it as UTF-8"]
    except (tomllib.TOMLDecodeError, RecursionError) as error:
        return {}, [f"{file}: not TOML: {' '.join(str(error).split())}"]
    return content, _problems(content, str(file))


def _variables(environ: Mapping[str, str], problems: list[str]) -> dict[str, str]:
    """The variables that set something and their keys, weakest first; adds to `problems` the unknown."""
    found = {variable: key for variable, key in OLD_VARIABLES.items() if environ.get(variable)}
    for variable in sorted(environ):
        section, separator, name = variable.removeprefix(PREFIX).partition("__")
        if not variable.startswith(PREFIX) or not separator:
            continue
        key = f"{section}.{name}".lower()
        if variable == variable.upper() and _field(key):
            found[variable] = key
        else:
            known = [PREFIX + known.upper().replace(".", "__") for known in keys()]
            problems.append(f"{_bare(variable)}: there is no such setting{_guess(variable.upper(), known)}")
    return found


def _value_of_text(key: str, text: str) -> Any:
    """The value that a variable's text means: itself for keys that are texts, else as TOML reads it."""
    info = _field(key)
    is_text = info is not None and (
        isinstance(info.get_default(), str | Path) or get_origin(info.annotation) is Literal
    )
    if is_text and not (text[:1] in ("'", '"') or (key == "gate.seeds" and text[:1] == "[")):
        return text
    try:
        content = tomllib.loads(f"value = {text}")
    except (tomllib.TOMLDecodeError, RecursionError):
        return text
    return content["value"] if len(content) == 1 else text


def _problems(content: dict[str, Any], where: str) -> list[str]:
    """Every problem of values as TOML has them, one line each; `where` is their file or variable."""
    try:
        Settings.model_validate(content)
    except ValidationError as error:
        found: dict[str, str] = {}
        for detail in error.errors(include_url=False):
            path = [str(part) for part in detail["loc"][:2]]
            key = ".".join(_bare(part) for part in path)
            found.setdefault(key, f"{where}: {key}: {_problem(path, dict(detail))}")
        return list(found.values())
    return []


def _problem(path: list[str], detail: dict[str, Any]) -> str:
    """What is wrong with the value at `path`, in words."""
    if detail["type"] == "extra_forbidden":
        if len(path) == 1:
            return f"there is no such section{_guess(path[0], list(sections()))}"
        ours = [key.partition(".")[2] for key in keys() if key.startswith(f"{path[0]}.")]
        elsewhere = [key for key in keys() if key.endswith(f".{path[1]}")]
        moved = f"; did you mean {elsewhere[0]}?" if elsewhere else ""
        return f"there is no such key{_guess(path[1], ours) or moved}"
    shown = _shown(detail["input"], secret=".".join(path) in SECRET_KEYS)
    if len(path) == 1:
        return f"{shown} is no section; it takes a table: [{path[0]}] and keys below it"
    what = detail["ctx"]["error"] if detail["type"] == "value_error" else _mismatch(detail)
    return f"{shown} {what}; it takes {takes('.'.join(path))}"


def _mismatch(detail: dict[str, Any]) -> str:
    """What is wrong with a value that pydantic itself refused."""
    named: list[tuple[type, str]] = [
        (bool, "true or false"),
        (str, "a text"),
        (int, "a whole number"),
        (float, "a number"),
    ]
    named += [(list, "a list"), (dict, "a table")]
    if detail["type"] == "literal_error":
        return "is not one of the words"
    return f"is {next((name for kind, name in named if isinstance(detail['input'], kind)), 'a date or time')}"


def _guess(name: str, known: list[str]) -> str:
    close = difflib.get_close_matches(name, known, n=1)
    return f"; did you mean {close[0]}?" if close else ""


def _shown(value: object, *, secret: bool) -> str:
    """A value as a message may show it: on one line, cut short, without passwords."""
    text = json.dumps(value, default=str)
    text = mask(text) if secret else text
    return text if len(text) <= 80 else f"{text[:80]}…"


def _bare(name: str) -> str:
    """A name as a message may show it: as it is where TOML takes it bare, else quoted and on one line."""
    return name if re.fullmatch(r"[A-Za-z0-9_-]{1,80}", name) else json.dumps(name[:80])
