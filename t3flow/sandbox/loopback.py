"""usage: python -m t3flow.sandbox.loopback COMMAND [ARGUMENT...]: brings this network namespace's loopback up, then becomes the command."""

import os
import sys

from t3flow.host.cells.build import raise_loopback


def main() -> None:
    """Needs CAP_NET_ADMIN in the namespace; without it the command is run all the same, and finds no network."""
    try:
        raise_loopback()
    except OSError as error:
        print(f"loopback: {error}", file=sys.stderr)
    os.execvp(sys.argv[1], sys.argv[1:])


if __name__ == "__main__":
    main()
