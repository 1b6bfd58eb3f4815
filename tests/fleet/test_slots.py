"""Slots under a race: hosts that ask in the same moment, with the program's own code on a real Redis."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
from conftest import RedisServer

from t3flow.fleet import signatures
from t3flow.sandbox.host import Sandbox
from t3flow.service.consumer import create_state_dir, open_journal

pytestmark = pytest.mark.processes
RACER = Path(__file__).with_name("racer.py")
HOSTS, ROUNDS = "abcd", 10
SETTINGS = '[fleet]\nurl = "{url}"\nhost = "{host}"\nslots = {slots}\nkey_file = "{top}/key"\npeers = "{peers}"\n'


@pytest.mark.parametrize("slots", [1, 2])
def test_hosts_that_ask_in_the_same_moment(tmp_path: Path, redis_server: RedisServer, slots: int) -> None:
    """Never more hosts than slots have a turn, no host has two slots, and all get their turn in the end."""
    peers = tmp_path / "peers"
    peers.mkdir()
    racers = []
    for name in HOSTS:
        top = tmp_path / name
        top.mkdir()
        extra = SETTINGS.format(url=redis_server.url, host=name, slots=slots, top=top, peers=peers)
        box = Sandbox(top, [], extra=extra)
        signatures.create_private_key(top / "key")
        (peers / f"{name}.pub").write_text(signatures.encoded(signatures.private_key(top / "key").public_key()))
        create_state_dir(box.settings.paths.state_dir)
        open_journal(box.settings, create=True)
    for name in HOSTS:
        words = [
            sys.executable,
            str(RACER),
            str(tmp_path / name / "config.toml"),
            str(slots),
            str(ROUNDS),
            str(len(HOSTS)),
        ]
        racers.append(
            subprocess.Popen(words, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=os.environ)
        )
    said = [racer.communicate(timeout=120) for racer in racers]
    assert [racer.returncode for racer in racers] == [0] * len(HOSTS), said
    assert sum(int(tried) for tried, _ in said) > len(HOSTS) * ROUNDS, "nobody ever had to wait: there was no race"
