"""`t3flow config`: the settings."""

from pathlib import Path

import click

from t3flow import settings as settings_module
from t3flow.cli.base import Commands, as_json, dump, settings, table


@click.group(cls=Commands)
def config() -> None:
    """Show or check settings."""


@config.command()
@as_json
def show(as_json: bool) -> None:
    """The settings in force and where each came from. Example: t3flow config show --json"""
    described = settings_module.describe(settings())
    if as_json:
        dump({entry.key: {"value": entry.value, "source": entry.source} for entry in described})
    else:
        table(["key", "value", "source"], [[entry.key, str(entry.value), entry.source] for entry in described])


@config.command()
@click.argument("file", type=click.Path(path_type=Path))
def check(file: Path) -> int:
    """Everything that is wrong in FILE, at once. Example: t3flow config check /etc/t3flow/config.toml"""
    problems = settings_module.check(file)
    for problem in problems:
        click.echo(problem)
    if not problems:
        click.echo(f"{file}: no problem")
    return 2 if problems else 0
