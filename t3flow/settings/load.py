"""Reads the settings in force from one TOML file and the environment. Reports all problems at once."""

import tomllib
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

from t3flow import T3flowError
from t3flow.settings.checks import type_of
from t3flow.settings.schema import Settings, declared, sections
from t3flow.settings.text import shown_name, shown_value

__all__ = ["Settings", "SettingsError", "check", "load"]

DEFAULT_FILE = Path("/etc/t3flow/config.toml")
FILE_VARIABLE = "T3FLOW_CONFIG"
PREFIX = "T3FLOW_"
OLD_VARIABLES = {
    "T3_TRACK": "track.tag",
    "T3_PIN": "track.pin",
    "T3_MIGRATE_QUIET_SECONDS": "deferral.quiet_seconds",
}
"""Names from the shell tracker. As there, an empty one counts as not set."""


class SettingsError(T3flowError):
    """The settings cannot be used. Has one line per problem: file or variable, key, what is wrong, what the key expects."""

    exit_code = 2

    def __init__(self, problems: list[str]) -> None:
        super().__init__("\n".join(problems))
        self.problems = problems


def load(path: Path | None, environ: Mapping[str, str]) -> Settings:
    """Return the settings in force, given the file of `--config` (or None) and the environment.

    Without `path`, T3FLOW_CONFIG names the file; without that, the default file is read, which alone may be missing.
    Precedence: T3FLOW_SECTION__KEY, the shell tracker's variable, the file, the default.
    Raise SettingsError with every problem, including those of overridden values.
    """
    values: dict[str, Any] = {}
    sources = dict.fromkeys(declared(), "default")
    problems: list[str] = []

    file = path or (Path(environ[FILE_VARIABLE]) if environ.get(FILE_VARIABLE) else DEFAULT_FILE)
    if file is not DEFAULT_FILE or _exists(file):
        values, problems = _read(file)
        sources |= dict.fromkeys(values, f"file {file}")

    for variable, key in _variables(environ, problems):
        sources[key] = f"environment {variable}"
        try:
            values[key] = _value(key, _toml(key, environ[variable]))
        except ValueError as error:
            problems.append(f"{variable}: {key}: {error}")

    if problems:
        raise SettingsError(problems)
    kinds = {
        section: kind(**{name: values[f"{section}.{name}"] for name in kind._fields if f"{section}.{name}" in values})
        for section, kind in sections().items()
    }
    return Settings(**kinds, sources=sources)


def check(path: Path) -> list[str]:
    """Return every problem of a settings file, one line each."""
    return _read(path)[1]


def _exists(file: Path) -> bool:
    """Return whether a file exists. One that cannot be seen counts as existing, so that reading it reports why."""
    try:
        file.lstat()
    except (FileNotFoundError, NotADirectoryError):
        return False
    except OSError:
        return True
    return True


def _read(file: Path) -> tuple[dict[str, Any], list[str]]:
    """Return the values of a TOML file by `section.key`, and every problem."""
    try:
        content = tomllib.loads(file.read_bytes().decode())
    except OSError as error:
        return {}, [f"{file}: cannot be read ({error.strerror}): name another file with --config or {FILE_VARIABLE}"]
    except UnicodeDecodeError as error:
        return {}, [f"{file}: not UTF-8 (byte {error.start}): save it as UTF-8"]
    except (ValueError, RecursionError) as error:  # also an integer with more digits than Python reads
        return {}, [f"{file}: not TOML: {' '.join(str(error).split())}"]
    return _accept(content, str(file))


def _accept(content: dict[str, Any], where: str) -> tuple[dict[str, Any], list[str]]:
    """Return the values in force of parsed TOML by `section.key`, and every problem; `where` names the file."""
    values: dict[str, Any] = {}
    problems = []
    for section, table in content.items():
        if section not in sections():
            problems.append(f"{where}: {shown_name(section)}: unknown section{guess(section, sections())}")
        elif not isinstance(table, dict):
            problems.append(f"{where}: {section}: is {type_of(table)}; expected a table: [{section}] and keys below it")
        else:
            for name, value in table.items():
                key = f"{section}.{name}"
                try:
                    if key not in declared():
                        raise ValueError(f"unknown key{_guess_key(section, name)}")
                    values[key] = _value(key, value)
                except ValueError as error:
                    problems.append(f"{where}: {section}.{shown_name(name)}: {error}")
    return values, problems


def _value(key: str, value: object) -> Any:
    """Return one value in force. Raise ValueError with what is wrong and what is expected."""
    try:
        return declared()[key].read(value)
    except ValueError as error:
        raise ValueError(f"{shown_value(key, value)} {error}; expected {declared()[key].expected}") from error


def _variables(environ: Mapping[str, str], problems: list[str]) -> Iterator[tuple[str, str]]:
    """Yield each variable that sets a key, and the key, weakest first. Add unknown ones to `problems`."""
    yield from ((variable, key) for variable, key in OLD_VARIABLES.items() if environ.get(variable))
    known = {PREFIX + key.upper().replace(".", "__"): key for key in declared()}
    for variable in sorted(environ):
        if variable in known:
            yield variable, known[variable]
        elif variable.startswith(PREFIX) and "__" in variable.removeprefix(PREFIX):
            problems.append(f"{shown_name(variable)}: unknown setting{guess(variable.upper(), known)}")


def _toml(key: str, text: str) -> Any:
    """Return the value of a variable's text: the text itself where a key takes strings, else what TOML reads."""
    types = declared()[key].types
    if str in types and not (text.startswith(("'", '"')) or (list in types and text.startswith("["))):
        return text
    try:
        content = tomllib.loads(f"value = {text}")
    except (ValueError, RecursionError):
        return text
    return content["value"] if len(content) == 1 else text


def _guess_key(section: str, name: str) -> str:
    """Return a hint at the key that may be meant: one of the section with a similar name, else one of another section with this name."""
    near = guess(name, sections()[section]._fields)
    elsewhere = (f"; did you mean {known}?" for known in declared() if known.endswith(f".{name}"))
    return near or next(elsewhere, "")


def guess(name: str, known: Iterable[str]) -> str:
    """Return a hint at the known name that is most similar, "" if none is."""
    import difflib  # loaded by a wrong name alone: each command reads settings

    close = difflib.get_close_matches(name, known, n=1)
    return f"; did you mean {close[0]}?" if close else ""
