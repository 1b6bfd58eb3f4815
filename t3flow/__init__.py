"""t3flow keeps every user of a shared host on the current build of t3, without outages."""

__version__ = "0.1.0"


class T3flowError(Exception):
    """Base class of errors whose text is shown to people as it is: one clear line for each problem."""
