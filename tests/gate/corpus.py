"""Print the tables of builds for docs/gate.md.

usage: python tests/gate/corpus.py
"""

import sys

from bad_builds import ANY, BAD
from good_builds import GOOD, PACKAGES, UNKNOWN


def tables() -> str:
    """Return the tables of docs/gate.md, after a line with the number of builds."""
    bad = sum(len(builds) for builds in BAD.values()) + len(PACKAGES)
    lines = [f"`bad let through: 0 of {bad}, good refused: 0 of {len(GOOD)}`", ""]
    for kind, builds in BAD.items():
        lines += [f"| {kind} | what people would see | caught by |", "|---|---|---|"]
        lines += [f"| {build.name} | {build.seen} | {_checks(build.fails)} |" for build in builds]
        lines.append("")
    lines += ["| installing | what people would see | refused with |", "|---|---|---|"]
    lines += [f"| {package.name} | {package.seen} | “… {package.caught} …” |" for package in PACKAGES]
    lines += ["", "| no verdict | what is unusual | seen by |", "|---|---|---|"]
    lines += [f"| {build.name} | {build.seen} | {_checks(build.fails)} |" for build in UNKNOWN]
    lines += ["", "| good | what is unusual |", "|---|---|"]
    lines += [f"| {build.name} | {build.seen} |" for build in GOOD]
    return "\n".join(lines)


def _checks(names: str) -> str:
    return "the check in progress" if names == ANY else " or ".join(f"`{name}`" for name in names.split())


if __name__ == "__main__":
    sys.stdout.write(tables() + "\n")
