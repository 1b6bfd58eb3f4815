"""Checks of the fleet: access, keys, and what the account of Redis may do."""

import stat
from collections.abc import Iterator
from contextlib import suppress

from t3flow.fleet import trouble
from t3flow.fleet.errors import FleetError
from t3flow.fleet.known import merge, read
from t3flow.fleet.members import Fleet, open_fleet
from t3flow.fleet.own import WAITING
from t3flow.host.host import Host
from t3flow.host.records import facts
from t3flow.state.doctor.finding import Finding, finding
from t3flow.state.fleet_settings import in_force

ACL = "limit it to this host's own record: see docs/fleet.md"


def fleet_works(host: Host) -> Iterator[Finding]:
    """Check that the fleet answers, this host's key is private and its own, its account is limited, and the fleet goes on by itself."""
    settings = in_force(host.settings)
    fleet = open_fleet(settings)
    if fleet is None:
        return
    if fleet.lock is not None:
        if fleet.settings.wave:
            yield finding(
                "fleet.wave has no effect with a FleetLock server, which has no records",
                "set fleet.wave to 0, or use Redis",
            )
        if problem := read(host.journal).problem:
            yield finding(problem.removesuffix("; see t3flow doctor"), "start the server, or correct fleet.url")
        return
    yield from _key_is_private(fleet)
    try:
        yield from _of_redis(host, fleet)
    except FleetError as error:
        text, _, remedy = str(error).removesuffix("; see t3flow doctor").partition("; ")
        yield finding(text, remedy or "start it, or correct fleet.url (verify, drain and rollback go on meanwhile)")


def _key_is_private(fleet: Fleet) -> Iterator[Finding]:
    path = fleet.settings.key_file
    with suppress(OSError):
        if stat.S_IMODE(path.stat().st_mode) & 0o077:
            yield finding(f"other accounts can read the private key {path}", f"chmod 600 {path}; then make a new one")


def _of_redis(host: Host, fleet: Fleet) -> Iterator[Finding]:
    assert fleet.store is not None
    keys = fleet.keys()
    if len(keys.public) == 1:
        yield finding(f"{fleet.settings.peers} has no key of another host", "copy their keys there: see docs/fleet.md")
    before = read(host.journal)
    contents = fleet.store.read(sorted(keys.public))
    found = merge(before, keys, contents.now, contents.records, contents.slots)
    if fleet.store.may_write_another(fleet.name):
        yield finding("this host's account of Redis may write the records of other hosts", ACL)
    for name in fleet.store.hosts_with_a_record():
        if name not in keys.public and not name.endswith(":probe"):
            yield finding(
                f"the record of {name!a} in the fleet is ignored: there is no key of that host",
                "copy its key to fleet.peers",
            )
    for place, dropped in found.dropped.items():
        if dropped["is_current"]:
            yield finding(
                f"what is in the place of {place} in the fleet is dropped: {dropped['reason']}", "see docs/fleet.md"
            )
    for name, what in trouble.silent_hosts(found, fleet.settings, fleet.name).items():
        yield finding(
            f"the host {name} of the fleet is silent: {what}", "start t3flow there, or remove its key from fleet.peers"
        )
    for line in trouble.stuck(found, fleet.settings, fleet.name, facts.read(host.journal, WAITING)):
        text, _, remedy = line.rpartition("; ")
        yield finding(text, remedy)
