"""usage: racer.py CONFIG SLOTS ROUNDS HOSTS: takes a turn in the fleet and gives it back, again and again. Fails if more hosts than SLOTS have one.

A counter beside the fleet's keys proves it: a host adds itself while it has its turn.
"""

import sys
import threading
import time
from pathlib import Path

from redis import Redis

from t3flow.fleet import looking, turn
from t3flow.fleet.keeper import Keeper, free_slots
from t3flow.fleet.members import open_fleet
from t3flow.host.host import open_host
from t3flow.service.consumer import open_journal
from t3flow.settings import load as settings_module

VERSION = "0.0.25-nightly.20260609.501"
HOLD_SECONDS = 0.005


def main() -> None:
    """Race until this host had its turn ROUNDS times."""
    settings = settings_module.load(Path(sys.argv[1]), {})
    slots, rounds, hosts = map(int, sys.argv[2:])
    host = open_host(settings, open_journal(settings))
    fleet, counter = open_fleet(settings), Redis.from_url(settings.fleet.url)
    assert fleet is not None
    Keeper(host, fleet, threading.Event())._publish(looking.look(host.journal, fleet))
    counter.incr("ready")
    while int(counter.get("ready") or 0) < hosts:
        time.sleep(0.005)
    had = tried = 0
    while had < rounds:
        tried += 1
        if not turn.ask(host, VERSION, f"bump-{had}", is_bump=True).is_granted:
            continue
        had += 1
        at_once = counter.incr("racing")
        assert at_once <= slots, f"{at_once} hosts have a turn"
        again = turn.ask(host, VERSION, f"bump-{had}", is_bump=True)
        assert again.is_granted, f"a host that has a slot has its turn: {again}"
        held = [
            slot for slot in looking.look(host.journal, fleet).slots if slot.claim and slot.claim.host == fleet.name
        ]
        assert len(held) == 1, f"a host has {len(held)} slots"
        time.sleep(HOLD_SECONDS)
        counter.decr("racing")
        assert free_slots(fleet, looking.look(host.journal, fleet), fleet.name) == 1
    print(tried)


if __name__ == "__main__":
    main()
