"""Another environment for this process, for a while."""

import os


class environment_of:
    """Give this process another environment inside the block."""

    def __init__(self, environment: dict[str, str]) -> None:
        self._environment = environment
        self._before = dict(os.environ)

    def __enter__(self) -> None:
        os.environ.clear()
        os.environ.update(self._environment)

    def __exit__(self, *error: object) -> None:
        os.environ.clear()
        os.environ.update(self._before)
