"""One run at an address that can be shared: its steps, its outcome, and how each user fared."""

from t3flow.state import actions
from t3flow.state.runs import activity, asked_for
from t3flow.web import timeline
from t3flow.web.reader import Seen
from t3flow.web.rendering import environment
from t3flow.web.screens import Screen

MOST_LINES = 2000


def run_screen(seen: Seen, run_id: str, *, is_admin: bool) -> Screen:
    """Return the page of a run. Raises NoSuchRun, and JournalError where there is none."""
    status, journal = seen.known()
    show = environment().get_template
    run = journal.run(run_id)
    entries = timeline.timeline(run, journal.events(run_id))
    left_out = max(0, len(entries) - MOST_LINES)
    entries = entries[left_out:]
    is_alive = status["consumer"]["alive"]
    head = show("run_head.html").render(
        run=run,
        doing=activity(journal, run, is_alive=is_alive),
        asked_for=asked_for(run).removeprefix("; "),
        asked_by=actions.askers(journal).get(run.id, ""),
        left_out=left_out,
        is_admin=is_admin,
    )
    result = show("run_result.html").render(users=run.result.get("users", {}), notices=run.result.get("notices", []))
    line = show("timeline_entry.html")
    days = [None, *(entry.day for entry in entries)]
    rows = {
        f"event-{entry.number}": line.render(entry=entry, day=entry.day if entry.day != before else "")
        for entry, before in zip(entries, days, strict=False)
    }
    return Screen({"run-head": head, "run-result": result}, {"timeline": rows})
