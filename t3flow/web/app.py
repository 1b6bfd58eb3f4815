"""The application: its routes, and what an error looks like."""

from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import PlainTextResponse, Response
from starlette.routing import Route

from t3flow.engine.journal import JournalError, NoSuchRun
from t3flow.settings.load import Settings
from t3flow.web import asking, looking
from t3flow.web.acts import ACTIONS
from t3flow.web.forms import Refused
from t3flow.web.live import Hub
from t3flow.web.pages import Site, message
from t3flow.web.people import Ambiguous, People
from t3flow.web.reader import Reader
from t3flow.web.rendering import assets

A_YEAR = "public, max-age=31536000, immutable"


async def asset(request: Request) -> Response:
    """Return a file that pages use. Its address changes with its content."""
    found = assets().get(request.path_params["name"])
    if found is None:
        return PlainTextResponse("There is no such file.\n", 404)
    return Response(found[0], headers={"cache-control": A_YEAR}, media_type=found[1])


async def robots(request: Request) -> Response:
    """Keep search engines out."""
    return PlainTextResponse("User-agent: *\nDisallow: /\n")


def _refused(request: Request, error: Exception) -> Response:
    assert isinstance(error, Refused)
    return message(request, error.status, "Not done", str(error))


def _ambiguous(request: Request, error: Exception) -> Response:
    return message(request, 400, "Not clear who asks", f"Refused: {error}.")


def _no_run(request: Request, error: Exception) -> Response:
    return message(
        request, 404, "No such run", f"There is no run {request.path_params.get('run', '')}; old runs are deleted."
    )


def _no_journal(request: Request, error: Exception) -> Response:
    return message(request, 503, "The journal cannot be read", f"{error}.")


def _http_error(request: Request, error: Exception) -> Response:
    assert isinstance(error, HTTPException)
    text = "There is no such page." if error.status_code == 404 else f"{error.detail}."
    return message(request, error.status_code, error.detail, text)


def _failed(request: Request, error: Exception) -> Response:
    return message(request, 500, "Internal error", "The page failed; its log says where: journalctl -u t3flow-web.")


def create_app(settings: Settings, distrusted: str) -> Starlette:
    """Return the application. `distrusted`: why no user header is believed on its socket, "" where one is."""
    routes = [
        Route("/", looking.host),
        Route("/live", looking.host_live),
        Route("/runs", looking.runs),
        Route("/runs/{run}", looking.run),
        Route("/live/runs/{run}", looking.run_live),
        Route("/users/{user}", looking.user),
        Route("/snapshots", looking.snapshots_of_all),
        Route("/settings", looking.settings),
        Route("/actions", looking.actions_of_all),
        *(Route(f"/actions/{action.name}", asking.route_of(action), methods=["GET", "POST"]) for action in ACTIONS),
        Route("/assets/{name}", asset),
        Route("/robots.txt", robots),
    ]
    handlers = {
        Refused: _refused,
        Ambiguous: _ambiguous,
        NoSuchRun: _no_run,
        JournalError: _no_journal,
        HTTPException: _http_error,
        Exception: _failed,
    }
    app = Starlette(routes=routes, exception_handlers=handlers)
    reader = Reader(settings)
    app.state.site = Site(settings, People(settings, distrusted), reader, Hub(reader))
    app.state.zone = "the schedule's time zone"
    return app
