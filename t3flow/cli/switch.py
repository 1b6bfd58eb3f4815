"""`t3flow freeze`, `unfreeze`, `pin`, `unpin`."""

import click

from t3flow import T3flowError
from t3flow.cli.base import UsageError, desk, journal, open_host, settings
from t3flow.cli.output import say, tell
from t3flow.settings.load import Settings
from t3flow.state.times import ago

ASK_SECONDS = 10.0
"""How long `pin` asks a registry that does not answer."""


class NotKnown(T3flowError):
    """The registry cannot tell whether a version exists."""


@click.command()
@click.option("--reason", default="", help="Shown by status and in the log.")
def freeze(reason: str) -> None:
    """Freeze tracking: no bump and no drain until unfreeze. Example: t3flow freeze --reason "demo day"

    Same as creating the freeze file by hand, but also records who froze it and why. A bump or drain in progress ends at its next safe point, and
    queued tasks are revoked. Rollbacks, restores and dry runs continue. Needs no consumer.
    """
    from t3flow.engine.journal import JournalError
    from t3flow.host import freeze as freezing
    from t3flow.service import operations

    read = settings()
    noted = None
    try:
        noted = journal(read)
        operations.freeze(desk(read), reason)
    except JournalError:
        freezing.freeze(read, None, reason)
    held = freezing.frozen(read, noted)
    assert held is not None
    tell(f"Frozen {ago(held['since'])} by {held['by']}: {held['reason']}; resume with: t3flow unfreeze")


@click.command()
def unfreeze() -> None:
    """Resume tracking and restore queued tasks. Example: t3flow unfreeze

    Same as removing the freeze file by hand. Rejected versions stay rejected; enqueue bump --again tries one again.
    """
    from t3flow.engine.journal import JournalError, NewerJournal
    from t3flow.host import freeze as freezing
    from t3flow.service import operations

    read = settings()
    try:
        tell(operations.unfreeze(desk(read)))
    except NewerJournal:
        raise
    except JournalError as error:
        freezing.unfreeze(read, None)
        tell("No longer frozen")
        say(f"t3flow: {error}")


@click.command()
@click.argument("version")
@click.option("--unchecked", is_flag=True, help="Pin without asking the registry whether the version exists.")
def pin(version: str, unchecked: bool) -> None:
    """Pin the host to an exact VERSION. Example: t3flow pin 0.0.25-nightly.20260609.501

    The next bump moves to VERSION, and none moves elsewhere until unpin. VERSION may be older within the same schema level. The command refuses a
    version that is neither installed nor published; if the registry does not answer, it refuses too, unless you pass --unchecked. T3_PIN or
    T3FLOW_TRACK__PIN in the consumer's environment takes precedence over this pin, and this pin over track.pin in the settings file.
    """
    from t3flow.host.records import facts
    from t3flow.service import operations
    from t3flow.t3.versions import InvalidVersion, parse

    read = settings()
    try:
        parse(version)
    except InvalidVersion as error:
        raise UsageError(str(error)) from error
    noted = journal(read)
    if not unchecked:
        _require_published(read, version)
    tell(operations.pin(desk(read), version))
    source = _environment_source(facts.read(noted, "consumer"))
    if source:
        say(f"t3flow: the consumer's {source} takes precedence; remove it from the consumer's environment")


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
            f"not pinned: the registry cannot tell whether {package} exists ({error}); to pin it without that check: t3flow pin {version} --unchecked"
        ) from error
    if not is_there:
        raise UsageError(
            f"not pinned: {package} is neither installed nor in the registry; to list the published versions: npm view {read.track.package} versions"
        )


@click.command()
def unpin() -> None:
    """Follow the tag again. Example: t3flow unpin

    Exits 2 if the consumer's environment still pins a version, and names the variable. Reports a pin in the settings file.
    """
    from t3flow.host.records import facts
    from t3flow.service import operations

    read = settings()
    source = _environment_source(facts.read(journal(read), "consumer"))
    done = operations.pin(desk(read), None)
    if source:
        raise UsageError(
            f"the consumer's {source} still pins a version; remove it from the consumer's environment and restart the consumer"
        )
    if read.track.pin:
        say(f"t3flow: the settings still pin to {read.track.pin} ({read.sources['track.pin']})")
        return
    tell(done)


def _environment_source(consumer: dict[str, str] | None) -> str:
    source = (consumer or {}).get("pin_source", "")
    return source if source.startswith("environment") and (consumer or {}).get("pin") else ""
