"""What people asked t3flow to do, who asked, and how it ended, for all that show it."""

from typing import Any, cast

from t3flow.engine.journal import Journal
from t3flow.host.records import actions
from t3flow.host.records.actions import PAGE, Action
from t3flow.state import documents
from t3flow.state.times import rfc3339


def recent(journal: Journal, limit: int = 50) -> list[documents.Action]:
    """Return the newest actions, newest first."""
    return [document(each) for each in actions.recent(journal, limit)]


def document(each: Action) -> documents.Action:
    """Return one action as documents have it."""
    return documents.Action(
        id=each.id,
        at=rfc3339(each.at),
        by=each.by,
        via=cast(Any, each.via),
        action=each.action,
        arguments=each.arguments,
        run=each.run_id or None,
        result=each.result,
    )


def askers(journal: Journal) -> dict[str, str]:
    """Return run → who asked for it, for people: "ada", "ada@example.test via the page". Runs that t3flow started itself are missing."""
    return {run: in_words(each) for run, each in actions.starters(journal).items()}


def in_words(each: Action) -> str:
    """Return who asked for an action."""
    return f"{each.by} via the page" if each.via == PAGE else each.by


def in_short(each: documents.Action) -> str:
    """Return what was asked for, in a few words: "hold ada", "bump"."""
    values = (value for value in each["arguments"].values() if not isinstance(value, bool))
    words = (", ".join(map(str, value)) if isinstance(value, list) else str(value) for value in values)
    return " ".join([each["action"], *words])
