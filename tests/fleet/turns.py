"""Hosts of one fleet without consumers: their runs, their turns, and what their consumers do."""

import json
import threading
from collections.abc import Callable
from contextlib import suppress

from t3flow.engine.runs import Outcome, end_run, new_run
from t3flow.fleet import looking
from t3flow.fleet.errors import FleetError
from t3flow.fleet.keeper import Keeper
from t3flow.fleet.members import Fleet, open_fleet
from t3flow.fleet.own import TURN
from t3flow.fleet.turn import ask
from t3flow.host import slots
from t3flow.host.host import Host
from t3flow.host.pruning import ACCEPTED
from t3flow.host.records import facts

OLD, NEW = "1.0.0", "2.0.0"
MakeHost = Callable[..., tuple[Host, Fleet]]


def begin(host: Host) -> str:
    """Begin a bump."""
    run = new_run(host.journal, "bump", {})
    assert run is not None
    return run


def end(host: Host, run: str, outcome: str = "updated", **users: str) -> None:
    """End a run with the results of users."""
    data = {"users": {user: {"result": result} for user, result in users.items()}}
    end_run(host.journal, host.journal.run(run), Outcome(outcome, "", "succeeded", data))


def asked(host: Host, run: str, version: str = NEW) -> str:
    """Ask for the turn of a bump, as a host whose record is there; return "" if it is granted, else why not."""
    fleet = open_fleet(host.settings)
    assert fleet is not None
    with suppress(FleetError):
        Keeper(host, fleet, threading.Event())._publish(looking.look(host.journal, fleet))
    answer = ask(host, version, run, is_bump=True)
    return "" if answer.is_granted else answer.rejected or answer.reason


def publish(host: Host, fleet: Fleet) -> None:
    """Publish the record of a host, as its consumer does, and give back what is over."""
    keeper = Keeper(host, fleet, threading.Event())
    keeper._look_and_publish()
    keeper._give_back()


def accept(host: Host, version: str) -> None:
    """Make a version the default, as `accept` does."""
    folder = slots.slot_path(host.settings.paths.versions_dir, version)
    folder.mkdir(parents=True, exist_ok=True)
    (folder / slots.MANIFEST).write_text(json.dumps({"version": version}))
    slots.set_default(host.settings.paths.versions_dir, version)
    facts.write(host.journal, ACCEPTED, [OLD, version])


def holders(host: Host, fleet: Fleet) -> list[str]:
    """Return which host holds each slot."""
    return [slot.claim.host if slot.claim else "" for slot in looking.look(host.journal, fleet).slots]


def own_run(host: Host) -> str:
    """Return the run of this host's turn."""
    return str(facts.read(host.journal, TURN)["run"])


def make_fleet_of(host: Host) -> Fleet:
    """Return the fleet of a host."""
    fleet = open_fleet(host.settings)
    assert fleet is not None
    return fleet
