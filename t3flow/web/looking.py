"""The pages that anyone may look at whom the reverse proxy lets through."""

from datetime import date, datetime, timedelta
from functools import partial
from typing import Any
from urllib.parse import urlencode

from starlette.requests import Request
from starlette.responses import Response

from t3flow.host.records import facts
from t3flow.state import actions
from t3flow.state.backups import snapshots
from t3flow.state.past_runs import Sought, count_past_runs, known_outcomes, past_runs
from t3flow.state.runs import activity
from t3flow.web import acts
from t3flow.web.live import RETRY_SECONDS, View
from t3flow.web.matrix import row_of
from t3flow.web.pages import frame, message, page, site_of
from t3flow.web.reader import Seen
from t3flow.web.screen_of_host import host_screen
from t3flow.web.screen_of_run import run_screen

RUNS_OF_A_PAGE = 50
ACTIONS_SHOWN = 100
RUNS_OF_A_USER = 10


async def host(request: Request) -> Response:
    """Show the status."""
    site, viewer = site_of(request), site_of(request).people.of(request)
    make = partial(host_screen, spool=site.reader.spool, is_admin=viewer.is_admin)
    screen, zone = await site.reader.run(lambda seen: (make(seen), seen.zone))
    asked = request.query_params.get("asked", "")
    notice = f"Requested: {asked}. Its result appears below, under “Latest actions”." if asked in NAMES else ""
    shown = {"page": frame(request, "/", zone), "title": "Status", "screen": screen, "live": "/live", "notice": notice}
    return page("host.html", shown)


async def host_live(request: Request) -> Response:
    """Stream the changes of the status."""
    site, viewer = site_of(request), site_of(request).people.of(request)
    make = partial(host_screen, spool=site.reader.spool, is_admin=viewer.is_admin)
    return await _stream(request, View("/live", viewer.is_admin, make))


async def run(request: Request) -> Response:
    """Show one run."""
    site, viewer, run_id = site_of(request), site_of(request).people.of(request), request.path_params["run"]

    def show(seen: Seen) -> tuple[Any, bool, str]:
        is_running = seen.known()[1].run(run_id).status == "running"
        return run_screen(seen, run_id, is_admin=viewer.is_admin), is_running, seen.zone

    screen, is_running, zone = await site.reader.run(show)
    live = {"live": f"/live/runs/{run_id}"} if is_running else {}
    shown = {"page": frame(request, "/runs", zone), "title": run_id, "run_id": run_id, "screen": screen, **live}
    return page("run.html", shown)


async def run_live(request: Request) -> Response:
    """Stream the changes of one run."""
    viewer, run_id = site_of(request).people.of(request), request.path_params["run"]
    make = partial(run_screen, run_id=run_id, is_admin=viewer.is_admin)
    return await _stream(request, View(f"/live/runs/{run_id}", viewer.is_admin, make))


async def _stream(request: Request, view: View) -> Response:
    """Return a stream, or 503 where there are too many; also for another site that makes a browser open one."""
    site, viewer = site_of(request), site_of(request).people.of(request)
    if request.headers.get("sec-fetch-site", "same-origin") != "same-origin":
        return message(request, 403, "Refused", "A stream is for the page itself.")
    token = request.headers.get("last-event-id") or request.query_params.get("token", "")
    stream = await site.hub.open(view, viewer.identity, token)
    if stream is None:
        headers = {"retry-after": str(RETRY_SECONDS), "connection": "close"}
        return Response("Too many live pages.\n", 503, headers, "text/plain")
    return stream  # type: ignore[return-value]  # an ASGI application, as responses are


async def runs(request: Request) -> Response:
    """List runs, filtered by the address."""
    asked = {key: request.query_params.get(key, "")[:256] for key in ("outcome", "user", "since", "until")}
    problem = ""
    try:
        sought = Sought(asked["outcome"], asked["user"], _midnight(asked["since"]), _midnight(asked["until"], 1))
        number = max(1, min(int(request.query_params.get("page", "1")), 100_000))
    except (ValueError, OverflowError):
        sought, number, problem = (
            Sought(),
            1,
            "The filter was ignored: a date is written as 2026-12-24, a page as a number.",
        )

    def show(seen: Seen) -> dict[str, Any]:
        status, journal = seen.known()
        total = count_past_runs(journal, sought)
        is_alive = status["consumer"]["alive"]
        running = journal.runs("status = 'running'", limit=2 * RUNS_OF_A_PAGE)
        return {
            "running": [(each, activity(journal, each, is_alive=is_alive)) for each in running],
            "runs": past_runs(journal, sought, limit=RUNS_OF_A_PAGE, offset=(number - 1) * RUNS_OF_A_PAGE),
            "total": total,
            "pages": -(-total // RUNS_OF_A_PAGE),
            "outcomes": known_outcomes(journal),
            "users": list(status["users"]),
            "page": frame(request, "/runs", seen.zone),
        }

    shown = await site_of(request).reader.run(show)
    filters = {key: value for key, value in asked.items() if value}
    previous, following = (f"/runs?{urlencode({**filters, 'page': other})}" for other in (number - 1, number + 1))
    shown |= {"title": "Runs", "problem": problem, "asked": asked, "filtered": bool(filters)}
    shown |= {"number": number, "previous": previous, "next": following}
    return page("runs.html", shown)


async def snapshots_of_all(request: Request) -> Response:
    """List the snapshots."""
    user = request.query_params.get("user", "")[:256]

    def show(seen: Seen) -> tuple[Any, str]:
        status, journal = seen.known()
        found = snapshots(journal, [user] if user else list(status["users"]))
        return found[::-1], seen.zone

    found, zone = await site_of(request).reader.run(show)
    around = frame(request, "/snapshots", zone)
    return page("snapshots.html", {"page": around, "title": "Snapshots", "snapshots": found, "user": user})


async def actions_of_all(request: Request) -> Response:
    """List what people asked for."""
    site = site_of(request)

    def show(seen: Seen) -> dict[str, Any]:
        status, journal = seen.known()
        return {
            "waiting": site.reader.spool.waiting(),
            "actions": actions.recent(journal, ACTIONS_SHOWN),
            "is_alive": status["consumer"]["alive"],
            "page": frame(request, "/actions", seen.zone),
        }

    return page("actions.html", {"title": "Actions", **await site.reader.run(show)})


async def settings(request: Request) -> Response:
    """Show the settings in force, which are the consumer's."""

    def show(seen: Seen) -> tuple[dict[str, Any], str]:
        return facts.read(seen.known()[1], "consumer") or {}, seen.zone

    noted, zone = await site_of(request).reader.run(show)
    around = frame(request, "/settings", zone)
    rows = noted.get("settings") or []
    shown = {"page": around, "title": "Settings", "settings": rows, "since": noted.get("since")}
    return page("settings.html", shown)


async def user(request: Request) -> Response:
    """Show one user."""
    name = request.path_params["user"]

    def show(seen: Seen) -> dict[str, Any] | None:
        status, journal = seen.known()
        if name not in status["users"]:
            return None
        return {
            "row": row_of(name, status["users"][name], status),
            "user": status["users"][name],
            "problems": [problem for problem in status["problems"] if problem["user"] == name],
            "runs": past_runs(journal, Sought(user=name), limit=RUNS_OF_A_USER),
            "snapshots": snapshots(journal, [name])[::-1],
            "page": frame(request, "/", seen.zone),
        }

    shown = await site_of(request).reader.run(show)
    if shown is None:
        return message(request, 404, "No such user", f"There is no user {name}.")
    return page("user.html", {"title": name, **shown})


def _midnight(day: str, later_days: int = 0) -> float | None:
    """Return the first moment of a day, or of one later, in the schedule's zone; None for "". Raises ValueError, OverflowError."""
    if not day:
        return None
    at = date.fromisoformat(day) + timedelta(days=later_days)
    return datetime(at.year, at.month, at.day).timestamp()


NAMES = tuple(action.name for action in acts.ACTIONS)
