"""Keys and signed texts: what another key, host, kind, or group has signed does not verify."""

import json
from pathlib import Path

import pytest
from hosts import make_keys
from hypothesis import given
from hypothesis import strategies as some

from t3flow.fleet import signatures
from t3flow.fleet.errors import BadRecord, FleetError
from t3flow.fleet.signatures import Keys


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Return a folder with the keys of two hosts."""
    make_keys(tmp_path, "a", "b")
    return tmp_path


def keys_of(folder: Path, host: str, group: str = "default") -> Keys:
    """Return the keys as one host has them."""
    return signatures.read_keys(group, host, folder / f"{host}.key", folder / "peers")


def test_what_a_host_signed_verifies_elsewhere(folder: Path) -> None:
    data = keys_of(folder, "a").sign("record", {"x": 1})
    assert keys_of(folder, "b").verify("record", data) == ("a", {"x": 1})
    assert signatures.claimed_host(data) == "a"


def test_nothing_else_verifies(folder: Path) -> None:
    """The control is the test above: the same text, with one thing changed each."""
    own, other = keys_of(folder, "a"), keys_of(folder, "b")
    data = own.sign("record", {"x": 1})
    document = json.loads(data)
    forged = {
        "its signature is not that of b": {**document, "host": "b"},
        "its signature is not that of a": {**document, "body": '{"x":2}'},
        "fleet.peers has no key of c": {**document, "host": "c"},
        "it is not a signed record": {**document, "host": "../a"},
    }
    for reason, text in forged.items():
        with pytest.raises(BadRecord, match=reason):
            other.verify("record", json.dumps(text).encode())
    with pytest.raises(BadRecord, match="signature"):
        other.verify("claim", data)
    with pytest.raises(BadRecord, match="signature"):
        keys_of(folder, "b", "another").verify("record", data)
    with pytest.raises(BadRecord, match="it names the host a"):
        other.verify("record", data, "b")
    with pytest.raises(BadRecord, match="too large"):
        other.verify("record", own.sign("record", {"x": "y" * signatures.MAX_BYTES}))


@given(some.binary(max_size=300))
def test_rubbish_is_a_bad_record(data: bytes) -> None:
    """Whatever another program writes: one error, never another one."""
    with pytest.raises(BadRecord):
        signatures._parts(data)
    assert signatures.claimed_host(data) == ""


def test_deep_json_is_a_bad_record() -> None:
    with pytest.raises(BadRecord):
        signatures._parts(b"[" * 30_000)


def test_a_key_is_created_once_and_private(tmp_path: Path) -> None:
    path = tmp_path / "new/fleet.key"
    assert signatures.create_private_key(path)
    text = path.read_text()
    assert not signatures.create_private_key(path)
    assert (path.read_text(), path.stat().st_mode & 0o777) == (text, 0o600)
    assert [path] == list(path.parent.iterdir())


def test_keys_that_cannot_be_used_say_so(folder: Path) -> None:
    """One line each, with what to do."""
    with pytest.raises(FleetError, match=r"create it with: t3flow fleet key"):
        signatures.private_key(folder / "none.key")
    (folder / "short.key").write_text("QUJD\n")
    with pytest.raises(FleetError, match=r"is not a key of t3flow; remove it, then create it with: t3flow fleet key"):
        signatures.private_key(folder / "short.key")
    (folder / "peers/b.pub").write_text("")
    with pytest.raises(FleetError, match=r"b\.pub is not a key of t3flow; print it on that host with"):
        keys_of(folder, "a")


def test_two_hosts_with_one_name_are_told(folder: Path) -> None:
    """The public key in the folder is not that of this host's key: a clone, or a key that was made anew."""
    (folder / "a.key").write_bytes((folder / "b.key").read_bytes())
    with pytest.raises(FleetError, match="two hosts have the name a"):
        keys_of(folder, "a")


def test_a_file_of_an_odd_name_is_told(folder: Path) -> None:
    (folder / "peers/a b.pub").write_text("")
    with pytest.raises(FleetError, match="not the name of a host"):
        keys_of(folder, "a")


def test_a_folder_that_is_not_there_has_no_peers(tmp_path: Path) -> None:
    assert signatures.peer_names(tmp_path / "none") == []
