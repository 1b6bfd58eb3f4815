"""The users as the page shows them: the state of each in a word, why, since when, and what comes next."""

from typing import NamedTuple

from t3flow.state.deferrals import in_words
from t3flow.state.documents import Status, User


class Row(NamedTuple):
    """One user. `mood`: good, waiting, bad or off, shown as a sign beside the word; `target`: the version that the user waits for."""

    user: str
    mood: str
    word: str
    version: str | None
    target: str | None
    why: str
    since: str | None
    next_check: str | None


def row_of(user: str, each: User, status: Status) -> Row:
    """Return the row of a user, by what an operator should know first."""
    shown = Row(user, "good", "up to date", each["running_version"] or each["assigned_version"], None, "", None, None)
    if not each["managed"]:
        return shown._replace(mood="off", word="not managed", why=each["why_unmanaged"].rpartition(": ")[0])
    if each["pairing"] == "failing":
        why = each["pairing_reason"].removeprefix("cannot pair: ")
        return _waiting(shown, each)._replace(mood="bad", word="cannot pair", why=why, since=each["pairing_since"])
    if held := each["held"]:
        why = f"held by {held['by']}{': ' if held['reason'] else ''}{held['reason']}"
        return shown._replace(mood="off", word="held", why=why, since=held["since"], next_check=held["until"])
    if each["deferred"] is not None:
        return _waiting(shown, each)
    if each["unknown"]:
        return shown._replace(mood="bad", word="left alone", why=each["unknown"])
    if not each["active"] and each["running_version"] is None:
        return shown._replace(mood="off", word="stopped", why="the server is not running")
    if behind := each["left_behind"]:
        why = behind["detail"] or behind["waiting_for"]
        return shown._replace(mood="bad", word="left behind", target=behind["target"], why=why, since=behind["since"])
    if each["assigned_version"] != status["default_version"]:
        return shown._replace(
            mood="off", word="other version", target=status["default_version"], why="no move is pending"
        )
    return shown


def _waiting(shown: Row, each: User) -> Row:
    """Return the row with what the user waits for, if anything."""
    if (deferred := each["deferred"]) is None:
        return shown
    return shown._replace(
        mood="waiting",
        word="waits",
        target=deferred["target"],
        why=in_words(deferred),
        since=deferred["since"],
        next_check=deferred["next_check"],
    )


def matrix(status: Status) -> list[Row]:
    """Return a row for each user, in the order of the user map."""
    return [row_of(user, each, status) for user, each in status["users"].items()]
