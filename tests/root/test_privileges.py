"""A trial gives up the privileges of its process in that process, without a program that does it: nothing is left, and nothing comes back."""

import json
import subprocess

import pytest

from t3flow.host.cells import cells

NOBODY = 65534
LOOK = """
import json, os, sys
{drop}
status = dict(line.split(":", 1) for line in open("/proc/self/status").read().splitlines())
found = {{key: status[key].strip() for key in ("CapInh", "CapPrm", "CapEff", "CapBnd", "CapAmb", "NoNewPrivs", "Groups")}}
def allowed(what):
    try:
        what()
    except OSError:
        return False
    return True
found["ids"] = [*os.getresuid(), *os.getresgid()]
found["becomes root"] = allowed(lambda: os.setresuid(0, 0, 0))
found["reads shadow"] = allowed(lambda: open("/etc/shadow").read())
found["gets it back by a program"] = os.system("setpriv --inh-caps=+all --ambient-caps=+all true 2>/dev/null") == 0
json.dump(found, sys.stdout)
"""
DROP = f"from t3flow.host.cells import privileges; privileges.drop({NOBODY}, {NOBODY})"


def look(drop: str) -> dict[str, object]:
    """Return what a process of root sees of its privileges after these words."""
    words = [*cells.python_command("")[:-2], "-c", LOOK.format(drop=drop)]
    finished = subprocess.run(words, env=cells.environment(PATH="/usr/bin:/bin"), capture_output=True, check=True)
    found: dict[str, object] = json.loads(finished.stdout)
    return found


def test_nothing_is_left() -> None:
    found = look(DROP)
    assert {found[name] for name in ("CapInh", "CapPrm", "CapEff", "CapBnd", "CapAmb")} == {"0" * 16}
    assert (found["NoNewPrivs"], found["Groups"], found["ids"]) == ("1", "", [NOBODY] * 6)
    assert [found[name] for name in ("becomes root", "reads shadow", "gets it back by a program")] == [False] * 3
    control = look("")
    assert (control["becomes root"], control["reads shadow"]) == (True, True), "and the test would notice"


@pytest.mark.parametrize("call", ["setgroups", "setresgid", "setresuid"])
def test_what_the_kernel_keeps_is_noticed(call: str) -> None:
    """If a call changes nothing and says that it did, the trial does not begin."""
    words = [
        *cells.python_command("")[:-2],
        "-c",
        f"import os; os.setgroups([4]); os.{call} = lambda *ids: None; {DROP}",
    ]
    finished = subprocess.run(words, env=cells.environment(PATH="/usr/bin:/bin"), capture_output=True, check=False)
    assert finished.returncode != 0
    assert b"PrivilegesKept" in finished.stderr
