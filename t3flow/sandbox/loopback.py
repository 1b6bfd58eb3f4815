"""usage: python -m t3flow.sandbox.loopback [--memory] [--guard] COMMAND [ARGUMENT...]: prepares its namespaces, then executes the command.

Brings up the loopback device; with --memory, mounts a file system in memory over /tmp; with --guard, runs the command in a PID namespace.
"""

import os
import sys

from t3flow.host.cells.build import raise_loopback
from t3flow.sandbox import guard
from t3flow.sandbox.enter import GUARD, MEMORY
from t3flow.sandbox.mounts import put_tmp_in_memory


def main() -> None:
    """Prepare the namespaces and execute the command.

    Best effort, except for the PID namespace: failures, as without CAP_NET_ADMIN or CAP_SYS_ADMIN, go to stderr.
    """
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
    if command[0] != GUARD:
        os.execvp(command[0], command)
    try:
        guard.run(command[1:])
    except OSError as error:
        sys.exit(f"guard: {error}")


if __name__ == "__main__":
    main()
