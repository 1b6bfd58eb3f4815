"""The third answer beside yes and no: t3flow does not know this kind of t3."""

MARK = "T3 UNKNOWN"
"""The alert T3Unknown matches these words in the log."""


class Unknown(Exception):
    """A t3 that t3flow does not understand. The text names the unknown part in one line.

    t3flow then does not guess: the gate is inconclusive, the user counts as not idle, and no version is rejected.
    """


def keeps_its_work(what: str) -> Unknown:
    """Return the error for activity that cannot be read. `what` names the database and what it contains."""
    return Unknown(f"this t3 keeps its work in a way that this t3flow does not know: {what}")
