"""What operators can ask of the fleet: free a slot. See `operations.py` for how it is recorded."""

from t3flow.fleet import looking
from t3flow.fleet.errors import FleetError
from t3flow.fleet.known import Known
from t3flow.fleet.members import Fleet, open_fleet
from t3flow.fleet.signatures import NAME, claimed_host
from t3flow.host.records.actions import Action
from t3flow.service.operations import Desk, Refused


def release(desk: Desk, host: str | None, slot: int | None) -> str:
    """Free the slots of a host, or one slot whatever holds it. Return what was done, as a sentence. Raises Refused, FleetError."""
    fleet = open_fleet(desk.settings)
    if fleet is None:
        raise Refused("this host belongs to no fleet: set fleet.url, and see docs/fleet.md")
    if host is not None and not NAME.fullmatch(host):
        raise Refused(f"{host[:80]!a} is not the name of a host")

    def do(entry: Action) -> str:
        if fleet.lock is not None:
            if host is None:
                raise Refused("a FleetLock server has no numbers of slots: name the host")
            fleet.lock.unlock(host)
            return f"The FleetLock server was asked to free the slot of {host}"
        found = looking.look(desk.journal, fleet)
        numbers = [slot] if slot is not None else _held_by(found, host or "")
        freed = [number for number in numbers if _free(fleet, found, number)]
        if freed:
            named = ", ".join(map(str, freed))
            return f"Freed slot {named}{f' of {host}' if host else ''}; the next host may take its turn"
        return f"{host} holds no slot" if host else f"Slot {slot} was free"

    return desk.once("fleet release", {"host": host, "slot": slot}, do)


def _held_by(found: Known, host: str) -> list[int]:
    """Return the slots whose claims name a host, also if its key is gone from fleet.peers, so that they do not verify any more."""
    return [number for number, slot in enumerate(found.slots) if slot.content and claimed_host(slot.content) == host]


def _free(fleet: Fleet, found: Known, number: int) -> bool:
    """Free a slot as it was read; return whether a host held it. Raises FleetError."""
    assert fleet.store is not None
    if not 0 <= number < len(found.slots):
        raise FleetError(f"there is no slot {number}: fleet.slots is {len(found.slots)}")
    content = found.slots[number].content
    return content is not None and fleet.store.free(number, content)
