"""Holding and letting go: freeze, unfreeze, pin, unpin."""

import click

from t3flow.cli.base import UsageError, journal, rfc3339, say, settings


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
    click.echo(f"FROZEN since {rfc3339(held['since'])} by {held['by']}: {held['reason']}")


@click.command()
def unfreeze() -> None:
    """Let it go on; queued tasks are put back. Example: t3flow unfreeze

    The same as removing the freeze file by hand. A version that was rejected stays so: enqueue bump --again tries it once more.
    """
    from t3flow.host import freeze as freezing

    read = settings()
    was = freezing.is_frozen(read)
    freezing.unfreeze(read, journal(read))
    click.echo("no longer frozen: deferred users are checked again at once" if was else "was not frozen")


@click.command()
@click.argument("version")
def pin(version: str) -> None:
    """Hold at an exact VERSION. Example: t3flow pin 0.0.25-nightly.20260609.501

    The next bump goes there, and none goes elsewhere until unpin. It may be an older version within the same schema level. T3_PIN or
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
    facts.write(noted, "pin", version)
    click.echo(f"pinned to {version}: the next bump goes there and nowhere else")
    source = _environment_source(facts.read(noted, "consumer"))
    if source:
        say(f"t3flow: but the consumer's {source} is stronger; take it out of its environment")


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
    click.echo(f"{'no longer' if was else 'was not'} pinned: follows the tag {read.track.tag}")


def _environment_source(consumer: dict[str, str] | None) -> str:
    source = (consumer or {}).get("pin_source", "")
    return source if source.startswith("environment") and (consumer or {}).get("pin") else ""
