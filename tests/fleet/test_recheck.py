"""What may have changed by the time a host has its turn."""

import pytest
from turns import NEW, OLD, MakeHost, accept, asked

from t3flow.engine.runs import new_run
from t3flow.fleet import waiting
from t3flow.host import slots
from t3flow.host.records import facts


@pytest.mark.parametrize(
    ("pin", "target", "outcome"),
    [("", None, ""), (OLD, None, "cancelled"), (NEW, None, ""), (OLD, NEW, "")],
)
def test_a_pin_ends_a_bump_that_waited(
    make_host: MakeHost, monkeypatch: pytest.MonkeyPatch, pin: str, target: str | None, outcome: str
) -> None:
    """`t3flow pin` promises that no bump moves elsewhere. A version that an operator named goes before the pin."""
    host, _ = make_host("a")
    accept(host, NEW)
    accept(host, OLD)
    run = new_run(host.journal, "bump", {"target": target})
    assert run is not None
    assert asked(host, run) == ""
    facts.write(host.journal, "pin", pin or None)
    monkeypatch.setattr(waiting, "current_host", lambda: host)
    monkeypatch.setattr(waiting, "current_run", lambda: run)
    assert slots.default_version(host.settings.paths.versions_dir) == OLD
    found = waiting.recheck_version.unjournaled(NEW, OLD, False)
    assert (found["outcome"], OLD in found["reason"]) == (outcome, bool(outcome))
