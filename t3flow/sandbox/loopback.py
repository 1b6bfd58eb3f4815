"""usage: python -m t3flow.sandbox.loopback [--memory] COMMAND [ARGUMENT...]: makes its namespaces ready, then becomes the command.

The loopback device is brought up; with --memory, /tmp becomes a file system in memory.
"""

import os
import sys

from t3flow.host.cells.build import raise_loopback
from t3flow.sandbox.enter import MEMORY, put_tmp_in_memory


def main() -> None:
    """Needs CAP_NET_ADMIN and CAP_SYS_ADMIN in the namespaces; what they lack is said, and the command is run all the same."""
    command = sys.argv[1:]
    steps = [raise_loopback]
    if command[0] == MEMORY:
        steps.append(put_tmp_in_memory)
        command = command[1:]
    for step in steps:
        try:
            step()
        except OSError as error:
            print(f"loopback: {error}", file=sys.stderr)
    os.execvp(command[0], command)


if __name__ == "__main__":
    main()
