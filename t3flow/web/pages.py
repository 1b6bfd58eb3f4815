"""What the pages share: who looks, the frame around the content, and responses."""

import platform
from typing import Any, NamedTuple

from starlette.requests import Request
from starlette.responses import HTMLResponse

from t3flow.settings.load import Settings
from t3flow.web.live import Hub
from t3flow.web.people import People, Viewer
from t3flow.web.reader import Reader
from t3flow.web.rendering import render


class Site(NamedTuple):
    """The parts of the running page."""

    settings: Settings
    people: People
    reader: Reader
    hub: Hub


class Frame(NamedTuple):
    """What every page shows around its content. `place`: the entry of the navigation that it belongs to."""

    host: str
    place: str
    zone: str
    viewer: Viewer
    distrusted: str


def site_of(request: Request) -> Site:
    """Return the site that a request came to."""
    site: Site = request.app.state.site
    return site


def frame(request: Request, place: str, zone: str) -> Frame:
    """Return the frame of a page. Raises Ambiguous."""
    people = site_of(request).people
    return Frame(platform.node(), place, zone, people.of(request), people.distrusted)


def page(template: str, values: dict[str, Any], status: int = 200) -> HTMLResponse:
    """Return a page that a template makes of these values."""
    return HTMLResponse(render(template, **values), status)


def message(request: Request, status: int, title: str, text: str) -> HTMLResponse:
    """Return a page that says one thing, to a viewer of whom nothing need be known."""
    zone, viewer = request.app.state.zone, Viewer("", False)
    around = Frame(platform.node(), "", zone, viewer, site_of(request).people.distrusted)
    return page("message.html", {"page": around, "title": title, "text": text}, status)
