"""Names of units: the escaping equals systemd's, and both forms in use are known."""

import shutil
import subprocess

import pytest
from hypothesis import given
from hypothesis import strategies as st

from t3flow.host.services import unit_names

TEMPLATE = "t3-serve@{user}.service"
NAMES = [
    "ada",
    "ada.lovelace",
    "Ada-Lovelace",
    "bob@corp.example",
    "CORP\\bob",
    ".x",
    "a/b",
    "\u00e9t\u00e9",
    "a b",
    "x$",
    "a:b",
]


@pytest.mark.skipif(shutil.which("systemd-escape") is None, reason="no systemd-escape here")
def test_escaping_is_systemds() -> None:
    """Return the output of the real program, called once for all names."""
    said = subprocess.run(["systemd-escape", "--", *NAMES], capture_output=True, text=True, check=True).stdout
    assert said.rstrip("\n").split(" ") == [unit_names.escape(name) for name in NAMES]


@given(st.text(st.characters(blacklist_categories=["Cs"], blacklist_characters="\0"), min_size=1))
def test_escaping_is_reversible(name: str) -> None:
    """For every name, and the result is a valid unit name."""
    assert unit_names.unescape(unit_names.escape(name)) == name
    assert all(letter.isascii() and (letter.isalnum() or letter in ":_.-\\") for letter in unit_names.escape(name))


def test_the_units_that_may_be_a_users() -> None:
    """The plain form comes first if it is a valid unit name."""
    assert unit_names.units(TEMPLATE, "ada.lovelace") == ["t3-serve@ada.lovelace.service"]
    assert unit_names.units(TEMPLATE, "ada-l") == ["t3-serve@ada-l.service", "t3-serve@ada\\x2dl.service"]
    assert unit_names.units(TEMPLATE, "a+b") == ["t3-serve@a\\x2bb.service"]


def test_the_accounts_that_a_unit_may_be_for() -> None:
    """The instance as it is, and unescaped; units of another template belong to no account."""
    assert unit_names.accounts(TEMPLATE, "t3-serve@bob\\x40corp.service") == ["bob\\x40corp", "bob@corp"]
    assert unit_names.accounts(TEMPLATE, "t3-serve@CORP\\bob.service") == ["CORP\\bob"]
    assert unit_names.accounts(TEMPLATE, "t3-serve@.service") == []
    assert unit_names.accounts(TEMPLATE, "other@bob.service") == []
