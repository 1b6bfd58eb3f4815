"""Which version a host of a later wave follows: the one that earlier waves are at or have verified, not each newer one that the tag points at.

A tag may move many times a day. A host that waited for the earlier waves to verify what it points at now would wait for ever.
"""

from collections.abc import Iterable
from contextlib import suppress

from t3flow.fleet import looking
from t3flow.fleet.errors import FleetError
from t3flow.fleet.members import open_fleet
from t3flow.fleet.records import Record
from t3flow.host.host import Host
from t3flow.host.records import rejections
from t3flow.t3.versions import InvalidVersion, Version, parse


def version_to_follow(host: Host, newest: str, default: str) -> str:
    """Return the version that this host moves to, given the one that the tag points at. A fleet that does not answer changes nothing."""
    fleet = open_fleet(host.settings)
    if fleet is None or fleet.store is None or not fleet.settings.wave:
        return newest
    try:
        found = looking.look(host.journal, fleet)
    except FleetError:
        return newest
    earlier = [
        record
        for name, record in found.records.items()
        if name != fleet.name and name in found.hosts and record.wave < fleet.settings.wave
    ]
    return best(earlier, newest, default, set(rejections.rejected(host.journal)))


def best(earlier: list[Record], newest: str, default: str, rejected: set[str]) -> str:
    """Return the newest version that all earlier hosts have verified, else the newest that one of them is at, else `newest`.

    Only versions above the default and up to `newest` count: a host that lags behind catches up at once, and one that does not waits with the others.
    """
    if not earlier:
        return newest
    verified = set.intersection(*(set(record.verified) for record in earlier))
    under_way = {version for record in earlier for version in (record.target, record.default)}
    for versions in (verified, under_way):
        if found := _between(versions - rejected, default, newest):
            return str(max(found))
    return newest


def _between(versions: Iterable[str], default: str, newest: str) -> list[Version]:
    """Return the versions above the default and up to the newest. Other hosts wrote the texts: what is no version is left out."""
    found = []
    for text in versions:
        with suppress(InvalidVersion):
            if parse(default) < (version := parse(text)) <= parse(newest):
                found.append(version)
    return found
