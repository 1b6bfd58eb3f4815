"""The status page itself: what is wrong, the host, the run in progress, the users, what was done lately."""

from t3flow.engine.journal import Run
from t3flow.state import actions, past_runs
from t3flow.state.documents import Problem, Status
from t3flow.state.host import next_bump
from t3flow.state.runs import activity
from t3flow.web import matrix, timeline
from t3flow.web.reader import Seen
from t3flow.web.rendering import environment
from t3flow.web.screens import Screen
from t3flow.web.spool import Spool

LATEST_STEPS, LATEST_RUNS, LATEST_ACTIONS = 12, 5, 5
BESIDE = ("drain", "bake", "revive")
"""Workflows of which many wait at a time; the matrix of users tells of them."""


def host_screen(seen: Seen, spool: Spool, *, is_admin: bool) -> Screen:
    """Return the status page for a viewer who may act, or may not."""
    show = environment().get_template
    if seen.status is None or seen.journal is None:
        problems = [seen.problem] if seen.problem else []
        return Screen({"problems": show("problems.html").render(problems=problems)}, {})
    status, journal = seen.status, seen.journal
    run = journal.run(status["run"]) if status["run"] else None
    parts = {
        "problems": show("problems.html").render(problems=urgent_first(status["problems"])),
        "summary": show("summary.html").render(status=status, next_bump=next_bump(status), is_admin=is_admin),
        "run": show("current.html").render(
            run=run,
            doing=activity(journal, run, is_alive=status["consumer"]["alive"]) if run else "",
            entries=timeline.latest(journal, run, LATEST_STEPS) if run else [],
            is_admin=is_admin,
        ),
        "count": show("count.html").render(rows=(rows := matrix.matrix(status)), observed=status["observed"]),
        "recent-runs": show("run_list.html").render(
            runs=past_runs.past_runs(journal, past_runs.Sought(), limit=LATEST_RUNS)
        ),
        "recent-actions": show("action_list.html").render(
            waiting=spool.waiting(),
            actions=actions.recent(journal, LATEST_ACTIONS),
            is_alive=status["consumer"]["alive"],
        ),
        "news": news(status, run),
    }
    user_row = show("user_row.html")
    return Screen(parts, {"users": {f"user-{row.user}": user_row.render(row=row) for row in rows}})


def urgent_first(problems: list[Problem]) -> list[Problem]:
    """Return the problems with those first without which the rest of the page means little."""
    return sorted(problems, key=lambda problem: problem["key"] != "consumer_down")


def news(status: Status, run: Run | None) -> str:
    """Return what a screen reader is told when it changes."""
    count = len(status["problems"])
    wrong = "Nothing is wrong." if not count else "1 problem." if count == 1 else f"{count} problems."
    return f"{wrong} {f'A {run.workflow} is in progress.' if run else 'No run is in progress.'}"
