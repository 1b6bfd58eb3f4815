"""usage: python -m t3flow.sandbox.loopback [--memory] COMMAND [ARGUMENT...]: prepares its namespaces, then executes the command.

Brings up the loopback device; with --memory, mounts a file system in memory over /tmp.
"""

import os
import sys

from t3flow.host.cells.build import raise_loopback
from t3flow.sandbox.enter import MEMORY, put_tmp_in_memory


def main() -> None:
    """Prepare the namespaces and execute the command. Best effort: failures, as without CAP_NET_ADMIN or CAP_SYS_ADMIN, go to stderr."""
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
