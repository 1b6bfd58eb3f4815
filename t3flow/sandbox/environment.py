"""Another environment for this process, for a while."""

import os


class environment_of:
    """Gives this process another environment for a while."""

    def __init__(self, environment: dict[str, str]) -> None:
        self._wanted = environment
        self._before = dict(os.environ)

    def __enter__(self) -> None:
        os.environ.clear()
        os.environ.update(self._wanted)

    def __exit__(self, *error: object) -> None:
        os.environ.clear()
        os.environ.update(self._before)
