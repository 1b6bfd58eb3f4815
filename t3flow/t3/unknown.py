"""The third answer beside yes and no: this t3 is of a kind that t3flow does not know."""

MARK = "T3 UNKNOWN"
"""The words that the alert T3Unknown looks for in the log."""


class Unknown(Exception):
    """A t3 that t3flow does not understand. The text names what is not known, in one line.

    t3flow then decides nothing by guessing: the gate is inconclusive, users count as not idle, and no version is rejected.
    """


def keeps_its_work(what: str) -> Unknown:
    """Return the error for activity that cannot be read. `what` names the database and what was found in it."""
    return Unknown(f"this t3 keeps its work in a way that this t3flow does not know: {what}")
