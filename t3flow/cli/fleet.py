"""`t3flow fleet`: several hosts that take a version one after the other."""

import click

from t3flow.cli.base import Commands, UsageError, as_json, desk, settings
from t3flow.cli.output import dump, say, styled, table, tell, wrapped
from t3flow.settings.load import Settings
from t3flow.state.fleet_documents import Fleet


@click.group(cls=Commands)
def fleet() -> None:
    """Several hosts that take a version one after the other."""


@fleet.command()
@as_json
def status(as_json: bool) -> int:
    """Show all hosts of the fleet, which hold a slot, which wait and why. Example: t3flow fleet status

    Asks the fleet, and shows what was known last where it does not answer. Exits 1 if it does not answer, is stuck, or has a host that is silent.
    """
    from t3flow.state.documents import SCHEMA
    from t3flow.state.fleet import fleet as collect
    from t3flow.state.problems import of_fleet_alone
    from t3flow.state.sources import journal

    read = _settings_in_force()
    noted = journal(read)
    unknown = _ask(read)
    found = collect(read, noted)
    assert found is not None
    problems = of_fleet_alone(found)
    if as_json:
        dump({"schema": SCHEMA, **found})
        return 1 if problems else 0
    for problem in problems:
        text = wrapped(f"{problem['text']}; {problem['remedy']}")
        click.echo(styled(text, fg="red"))
    for name in unknown:
        click.echo(wrapped(f"A record of {name!a} is ignored: fleet.peers has no key of that host"))
    _show(found)
    return 1 if problems else 0


def _settings_in_force() -> Settings:
    """Return the settings with the fleet's as the consumer uses them. Raises UsageError if the host belongs to no fleet."""
    from t3flow.state.fleet_settings import in_force

    mine = settings()
    read = in_force(mine)
    if not read.fleet.url and mine.fleet.url:
        raise UsageError(
            "the consumer has not read fleet.url yet, so this host belongs to no fleet: systemctl restart t3flow"
        )
    if not read.fleet.url:
        raise UsageError("this host belongs to no fleet: set fleet.url, and see docs/fleet.md")
    return read


def _ask(read: Settings) -> list[str]:
    """Ask the fleet and record the answer, as far as this account may. Return the hosts with a record and without a key."""
    import os

    from t3flow.fleet import looking
    from t3flow.fleet.errors import FleetError
    from t3flow.fleet.members import open_fleet
    from t3flow.state.sources import journal

    fleet = open_fleet(read)
    assert fleet is not None
    if fleet.store is None:
        return []
    if not os.access(read.fleet.key_file, os.R_OK):
        say("t3flow: this account may not read the key of this host: what the consumer knew last is shown")
        return []
    try:
        found = looking.look(journal(read), fleet)
        return [name for name in fleet.store.hosts_with_a_record() if name not in found.hosts and ":" not in name]
    except FleetError:
        return []  # recorded, and shown as a problem


def _show(found: Fleet) -> None:
    """Print slots and hosts."""
    from t3flow.state.short import short_id, shortened
    from t3flow.state.times import ago, epoch

    where = f"Group {found['group']}, this host is {found['host']} of wave {found['wave']}"
    click.echo(wrapped(f"{where}, asked {ago(epoch(found['asked']))}"))
    if found["backend"] == "fleetlock":
        text = "A FleetLock server has only slots: waves, and what other hosts rejected, are not known here"
        click.echo(wrapped(text))
        if turn := found["turn"]:
            text = f"This host holds a slot since {ago(epoch(turn['since']))} for {turn['version']} ({short_id(turn['run'])})"
            click.echo(wrapped(text))
    for slot in found["slots"]:
        holder = slot["host"] or ("unreadable" if slot["problem"] else "")
        state = f"held by {holder}" if holder else "free"
        if holder and slot["version"]:
            state += f" for {slot['version']} since {ago(epoch(slot['since']))}"
        click.echo(f"Slot {slot['slot']}: {state}")
    if (waiting := found["waiting"]) and found["backend"] == "fleetlock":
        over = "waited last" if waiting["is_over"] else "waits"
        click.echo(wrapped(f"This host {over} with {waiting['version']}: {waiting['reason']}"))
    rows = []
    for host in found["hosts"]:
        doing = f"waits with {host['target']}: {host['waiting']} ({ago(epoch(host['waiting_since']))})"
        if not host["waiting"]:
            doing = f"frozen: {host['frozen']}" if host["frozen"] else f"at {host['target']}" if host["target"] else "-"
        if host["silent"]:
            doing = f"SILENT; {doing}"
        default, good = host["default_version"], "yes" if host["default_version"] in host["verified"] else "no"
        wave = "-" if host["wave"] is None else str(host["wave"])
        seen = ago(epoch(host["seen"])) if host["seen"] else "never"
        rows.append([host["host"], wave, shortened(default) or "-", good, seen, doing])
    if rows:
        table(["host", "wave", "version", "verified", "seen", "state"], rows)


@fleet.command()
@click.argument("host", required=False)
@click.option("--slot", type=int, metavar="NUMBER", help="Free this slot instead, whatever holds it.")
def release(host: str | None, slot: int | None) -> None:
    """Free the slot of HOST. Example: t3flow fleet release devvm2

    For a host that is gone, or whose bad version an operator has looked at: the next host may take its turn then. It is recorded with the person. A
    host that still runs keeps on with what it has begun, so that two hosts may restart users at a time.
    """
    from t3flow.service import fleet_operations

    if (host is None) == (slot is None):
        raise UsageError("name a host, or a slot with --slot NUMBER; t3flow fleet status lists them")
    read = _settings_in_force()
    tell(fleet_operations.release(desk(read), host, slot))


@fleet.command()
def key() -> None:
    """Print the public key of this host, and create the key if there is none. Example: t3flow fleet key

    Put it into the folder fleet.peers of every other host of the group, as HOST.pub. The private key, fleet.key_file, never leaves this host.
    """
    from t3flow.fleet import signatures
    from t3flow.fleet.members import name_of

    read = settings().fleet
    name = name_of(read)
    if signatures.create_private_key(read.key_file):
        say(f"t3flow: created {read.key_file}")
    say(f"t3flow: on every other host: {read.peers / name}{signatures.SUFFIX}")
    click.echo(signatures.encoded(signatures.private_key(read.key_file).public_key()))
