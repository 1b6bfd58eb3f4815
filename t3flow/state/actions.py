"""What people asked t3flow to do, who asked, and how it ended, for all that show it."""

from typing import TypedDict

from t3flow.engine.journal import Journal
from t3flow.host.records import actions
from t3flow.host.records.actions import PAGE, Action
from t3flow.state.times import rfc3339


class ActionDocument(TypedDict):
    """One action. `by`: an account, or on the page (`via`) an identity; `result`: null while it is under way or was interrupted."""

    id: str
    at: str
    by: str
    via: str
    action: str
    arguments: dict[str, object]
    run: str | None
    result: str | None


def recent(journal: Journal, limit: int = 50) -> list[ActionDocument]:
    """Return the newest actions, newest first."""
    return [document(each) for each in actions.recent(journal, limit)]


def document(each: Action) -> ActionDocument:
    """Return one action as documents have it."""
    return {
        "id": each.id,
        "at": rfc3339(each.at) or "",
        "by": each.by,
        "via": each.via,
        "action": each.action,
        "arguments": each.arguments,
        "run": each.run_id or None,
        "result": each.result,
    }


def askers(journal: Journal) -> dict[str, str]:
    """Return run → who asked for it, for people: "ada", "ada@example.test via the page". Runs that t3flow started itself are missing."""
    return {run: in_words(each) for run, each in actions.starters(journal).items()}


def in_words(each: Action) -> str:
    """Return who asked for an action."""
    return f"{each.by} via the page" if each.via == PAGE else each.by
