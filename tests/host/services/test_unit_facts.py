"""Facts of a unit, from the output of systemd 249 to 257."""

from pathlib import Path

import pytest

from t3flow.host.services import systemd, unit_facts

SHOWN = """Id=t3-serve@ada.service
ActiveState=active
SubState=running
MainPID=77
ExecMainStartTimestamp={started}
LoadState=loaded
ExecStart={{ path=/usr/bin/t3 ; argv[]=/usr/bin/t3 serve --port ${{T3_PORT}} --base-dir /home/CORP\\ada/.t3 ; {flags} ; start_time=[n/a] ; stop_time=[n/a] ; pid=0 ; code=(null) ; status=0/0 }}
User=ada
Environment=A=1 "B=two words" T3_PORT=1
EnvironmentFiles=/etc/a b.env (ignore_errors=yes)
EnvironmentFiles=/etc/t3-serve/ada.env (ignore_errors=no)
DropInPaths=/etc/x.conf /etc/y.conf
"""


def shown(started: str = "@1764000000", flags: str = "ignore_errors=no") -> dict[str, str]:
    """Return the properties of a unit."""
    return unit_facts.properties(SHOWN.format(started=started, flags=flags))


@pytest.mark.parametrize("flags", ["ignore_errors=no", "flags="])
def test_the_facts_of_a_unit(flags: str) -> None:
    """Command, environment and files; several files are on several lines."""
    facts = unit_facts.facts_of("t3-serve@ada.service", shown(flags=flags))
    assert facts.option("--port") == "${T3_PORT}"
    assert facts.option("--base-dir") == "/home/CORP\\ada/.t3"
    assert facts.option("--host") is None
    assert facts.environment == {"A": "1", "B": "two words", "T3_PORT": "1"}
    assert facts.environment_files == ((Path("/etc/a b.env"), True), (Path("/etc/t3-serve/ada.env"), False))
    assert facts.drop_ins == ("/etc/x.conf", "/etc/y.conf")


def test_properties_that_an_older_systemd_lacks() -> None:
    """All properties are optional."""
    facts = unit_facts.facts_of("x.service", {})
    assert (facts.commands, facts.load_state, facts.environment_files) == ((), "", ())
    assert systemd._state("x.service", {}).active is False


@pytest.mark.parametrize(
    ("said", "wall"),
    [
        ("@1764000000", 1764000000.0),
        ("Mon 2025-11-24 16:00:00 UTC", 1764000000.0),
        ("n/a", None),
        ("", None),
    ],
)
def test_times_with_and_without_unix_timestamps(said: str, wall: float | None) -> None:
    """systemctl runs with TZ=UTC if it does not know `--timestamp=unix`."""
    assert systemd._state("x.service", shown(started=said)).started_wall == wall


def test_of_two_units_the_one_that_runs_as_the_user() -> None:
    """With `User=%I` the escaped instance belongs to the user, with `User=%i` the plain one."""
    plain = systemd._state("t3-serve@ada-l.service", {"User": "ada/l", "ActiveState": "active", "MainPID": "1"})
    escaped = systemd._state("t3-serve@ada\\x2dl.service", {"User": "ada-l"})
    assert systemd._choose_unit("ada-l", [plain, escaped]).unit == escaped.unit
    both = [systemd._state(unit, {"User": "ada-l"}) for unit in (plain.unit, escaped.unit)]
    assert systemd._choose_unit("ada-l", both).unit == plain.unit
