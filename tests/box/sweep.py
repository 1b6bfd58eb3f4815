"""Kill installations at evenly spread lines on a real systemd. Needs root; takes about a minute for each point.

The first installation, with adoption, its undo and uninstallation, on a host as the shell tracker left it (first_install.py); then upgrades with a
run in flight (upgrades.py). Each prints what was wrong and exits 1.
"""

import argparse
import sys
import tempfile
from pathlib import Path

from box import ROOT, Box, fetch_wheels
from first_install import sweep_install
from killing import FIRST, USERS
from upgrades import sweep_upgrade


def main() -> int:
    """Run the command. Return 1 if anything was wrong at any point."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("points", nargs="?", type=int, default=12)
    parser.add_argument("--only", choices=["install", "upgrade"])
    parser.add_argument("--first", type=int, default=1, metavar="LINE", help="kill at none before this one")
    given = parser.parse_args()
    failures = 0
    with tempfile.TemporaryDirectory() as folder:
        wheels = fetch_wheels(Path(folder))
        for name, sweep in (("install", sweep_install), ("upgrade", sweep_upgrade)):
            if given.only in (None, name):
                box = Box(USERS, wheels)
                try:
                    box.boot()
                    box.set_up(
                        FIRST, dict.fromkeys(USERS, ROOT / "tests/data/state-level30.sqlite"), {"schema_level": 30}
                    )
                    found = sweep(box, given.points, given.first)
                    print(f"{name}: {found} failures at {given.points} points", flush=True)
                    failures += found
                finally:
                    box.close()
    return bool(failures)


if __name__ == "__main__":
    sys.exit(main())
