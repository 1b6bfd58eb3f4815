"""Holding and letting go: freeze, unfreeze, pin, unpin."""

import click

from t3flow import T3flowError
from t3flow.cli.base import UsageError, journal, open_host, settings
from t3flow.cli.output import say, wrapped
from t3flow.settings.load import Settings
from t3flow.state.times import ago

ASK_SECONDS = 10.0
"""For so long `pin` asks a registry that does not answer."""


class NotKnown(T3flowError):
    """The registry cannot tell whether a version is published."""


@click.command()
@click.option("--reason", default="", help="Why; shown by status and in the log.")
def freeze(reason: str) -> None:
    """Hold everything: no bump, no drain, until unfreeze. Example: t3flow freeze --reason "demo day"

    The same as making the freeze file by hand; this also notes who and why. A bump or a drain under way ends at its next safe point; queued
    tasks are revoked. Rollback, restore and dry runs go on. No consumer is needed.
    """
    from t3flow.engine.journal import JournalError
    from t3flow.host import freeze as freezing

    read = settings()
    try:
        noted = journal(read)
    except JournalError:
        noted = None
    freezing.freeze(read, noted, reason)
    held = freezing.frozen(read, noted)
    assert held is not None
    click.echo(wrapped(f"Frozen {ago(held['since'])} by {held['by']}: {held['reason']}; resume with: t3flow unfreeze"))


@click.command()
def unfreeze() -> None:
    """Let it go on; queued tasks are put back. Example: t3flow unfreeze

    The same as removing the freeze file by hand. A version that was rejected stays so: enqueue bump --again tries it once more.
    """
    from t3flow.host import freeze as freezing

    read = settings()
    was = freezing.is_frozen(read)
    freezing.unfreeze(read, journal(read))
    click.echo("No longer frozen; deferred users are checked at once" if was else "Was not frozen")


@click.command()
@click.argument("version")
@click.option("--unchecked", is_flag=True, help="Do not ask the registry whether the version is published.")
def pin(version: str, unchecked: bool) -> None:
    """Hold at an exact VERSION. Example: t3flow pin 0.0.25-nightly.20260609.501

    The next bump goes there, and none goes elsewhere until unpin. It may be an older version within the same schema level. A version that is neither
    installed nor published is refused, and so is one of which the registry cannot be asked, unless --unchecked is given. T3_PIN or
    T3FLOW_TRACK__PIN in the consumer's environment is stronger, track.pin in the settings file weaker.
    """
    from t3flow.host.records import facts
    from t3flow.t3.versions import InvalidVersion, parse

    read = settings()
    try:
        parse(version)
    except InvalidVersion as error:
        raise UsageError(str(error)) from error
    noted = journal(read)
    if not unchecked:
        _require_published(read, version)
    facts.write(noted, "pin", version)
    click.echo(f"Pinned to {version}: the next bump goes there, and none goes elsewhere until t3flow unpin")
    source = _environment_source(facts.read(noted, "consumer"))
    if source:
        say(f"t3flow: but the consumer's {source} is stronger; take it out of its environment")


def _require_published(read: Settings, version: str) -> None:
    """Raise UsageError for a version that is neither installed nor published, NotKnown where the registry cannot be asked."""
    from t3flow.host import slots
    from t3flow.host.npm import registry

    if slots.has_slot(read.paths.versions_dir, version):
        return
    host = open_host(read._replace(npm=read.npm._replace(retry_for_s=min(read.npm.retry_for_s, ASK_SECONDS))))
    package = f"{read.track.package}@{version}"
    try:
        is_there = registry.is_published(host, version)
    except T3flowError as error:
        raise NotKnown(
            f"not pinned: whether {package} is published is not known ({error}); to pin it all the same: t3flow pin {version} --unchecked"
        ) from error
    if not is_there:
        raise UsageError(
            f"not pinned: {package} is neither installed nor in the registry; npm view {read.track.package} versions lists what is published"
        )


@click.command()
def unpin() -> None:
    """Follow the tag again. Example: t3flow unpin

    Exits 2 and names it if the consumer's environment still pins; says so if the settings file does.
    """
    from t3flow.host.records import facts

    read = settings()
    noted = journal(read)
    was = facts.read(noted, "pin")
    source = _environment_source(facts.read(noted, "consumer"))
    facts.write(noted, "pin", None)
    if source:
        raise UsageError(f"the consumer's {source} still pins; take it out of its environment and restart it")
    if read.track.pin:
        say(f"t3flow: the settings still pin to {read.track.pin} ({read.sources['track.pin']})")
        return
    click.echo(f"{'No longer' if was else 'Was not'} pinned; t3flow follows the tag {read.track.tag}")


def _environment_source(consumer: dict[str, str] | None) -> str:
    source = (consumer or {}).get("pin_source", "")
    return source if source.startswith("environment") and (consumer or {}).get("pin") else ""
