"""`t3flow config`: the settings."""

from contextlib import suppress
from pathlib import Path

import click

from t3flow.cli.base import Commands, UsageError, as_json, settings
from t3flow.cli.output import dump, say, table
from t3flow.settings import load as settings_module
from t3flow.settings import text as settings_text


@click.group(cls=Commands)
def config() -> None:
    """Show or check settings."""


@config.command()
@click.argument("key", required=False)
@click.option("--commented", is_flag=True, help="Print a settings file with every key and its default, commented out.")
@as_json
def show(key: str | None, commented: bool, as_json: bool) -> None:
    """Show the settings and the source of each, or the value of one KEY. Example: t3flow config show paths.launcher

    KEY may also be a section, such as metrics. These are the settings of a consumer that starts now; where the running one has other values, stderr
    names them.
    """
    if commented:
        click.echo(settings_text.commented(), nl=False)
        return
    described = settings_text.describe(settings())
    if section := [entry for entry in described if key is not None and entry.key.startswith(f"{key}.")]:
        described, key = section, None
    if key is not None:
        known = [entry.key for entry in described]
        if key not in known:
            hint = settings_module.guess(key, known) or "; t3flow config show lists all keys"
            raise UsageError(f"there is no setting {key!r}{hint}")
        described = [entry for entry in described if entry.key == key]
    for entry in _not_in_force(described):
        running = f"{entry.key} = {entry.value!r} ({entry.source})"
        say(f"t3flow: the running consumer has {running}; to have it read the settings again: systemctl restart t3flow")
    if as_json:
        dump({entry.key: {"value": entry.value, "source": entry.source} for entry in described})
    elif key is not None:
        click.echo(described[0].value)
    else:
        table(["key", "value", "source"], [[entry.key, str(entry.value), entry.source] for entry in described])
        if not section:
            click.echo(f"# {_next_bump()}")


def _not_in_force(described: list[settings_text.Setting]) -> list[settings_text.Setting]:
    """Return the settings of the running consumer that differ from these, as far as this account may know them."""
    from t3flow import T3flowError
    from t3flow.host.records import facts
    from t3flow.state.sources import journal_if_any, live_consumer_pid

    read = settings()
    with suppress(T3flowError, OSError):
        noted = journal_if_any(read)
        if noted is not None and live_consumer_pid(read, noted) is not None:
            rows = (facts.read(noted, "consumer") or {}).get("settings") or []
            values = {entry.key: entry.value for entry in described}
            return [settings_text.Setting(*row) for row in rows if row[0] in values and row[1] != values[row[0]]]
    return []


def _next_bump() -> str:
    """Return the next bump in this process's time zone. The consumer may have another TZ: `t3flow status` shows that."""
    import time

    from t3flow import T3flowError
    from t3flow.settings import schedule

    read = settings()
    try:
        return f"next bump {schedule.described(read, schedule.next_due(read, time.time()))}"
    except T3flowError as error:
        return f"next bump: {error}"


@config.command()
@click.argument("file", type=click.Path(path_type=Path))
def check(file: Path) -> int:
    """Check FILE and report all of its problems. Example: t3flow config check /etc/t3flow/config.toml"""
    problems = settings_module.check(file)
    for problem in problems:
        click.echo(problem)
    if not problems:
        click.echo(f"{file}: no problems")
    return 2 if problems else 0
