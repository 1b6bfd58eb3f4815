"""Shell completion of users and runs. What cannot be read is not offered; a traceback never reaches the prompt."""

import os
from contextlib import suppress
from pathlib import Path

import click

from t3flow import T3flowError
from t3flow.settings import load as settings_module
from t3flow.settings.load import Settings

NEWEST_RUNS = 20


def users(context: click.Context, parameter: click.Parameter, incomplete: str) -> list[str]:
    """Return the users of the map that start with `incomplete` and are not on the line yet."""
    from t3flow.settings.user_map import read_user_map

    there = context.params.get(parameter.name or "") or ()
    with suppress(T3flowError, OSError):
        names = [entry.name for entry in read_user_map(_settings(context).paths.user_map).users]
        return [name for name in names if name.startswith(incomplete) and name not in there]
    return []


def runs(context: click.Context, parameter: click.Parameter, incomplete: str) -> list[str]:
    """Return the newest runs that start with `incomplete`."""
    from t3flow.state.sources import journal

    with suppress(T3flowError, OSError):
        noted = journal(_settings(context))
        return [run.id for run in noted.runs(limit=NEWEST_RUNS) if run.id.startswith(incomplete)]
    return []


def _settings(context: click.Context) -> Settings:
    """Return the settings that the line would use. Raises SettingsError."""
    path: str | None = context.find_root().params.get("config")
    return settings_module.load(Path(path) if path else None, os.environ)
