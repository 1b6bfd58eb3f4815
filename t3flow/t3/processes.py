"""Which processes are the server, by the program that started them.

Up to 0.0.33 the server is one Node process. Since 0.0.42 a launcher blocks in Node, the server is a native executable of the platform package
below it, and a resource monitor always runs beside it.
"""

from pathlib import Path

PROGRAM = Path("node_modules/.bin/t3")
"""The program in an npm install."""

PACKAGE_SCOPE = "@t3code"
"""The scope of the platform packages."""

MODULES = "node_modules"


def package_of(path: str) -> str:
    """Return the folder of the npm package that contains a program, or "".

    Given `/opt/x/node_modules/@t3code/t3-linux-x64/resource-monitor/m`, return `/opt/x/node_modules/@t3code/t3-linux-x64`.
    """
    parts = Path(path).parts
    for index, part in enumerate(parts):
        if part == MODULES and index + 1 < len(parts):
            deep = 2 if parts[index + 1].startswith("@") else 1
            if index + deep < len(parts):
                return str(Path(*parts[: index + deep + 1]))
    return ""
