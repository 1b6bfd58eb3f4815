"""The routes of actions: for administrators alone, from the page itself alone, and confirmed where something is lost."""

import functools
import secrets
from collections.abc import Awaitable, Callable
from typing import Any

from starlette.requests import Request
from starlette.responses import RedirectResponse, Response

from t3flow.host import slots
from t3flow.web.acts import Action, Host, Invalid, valid
from t3flow.web.forms import read_form, require_same_origin
from t3flow.web.pages import frame, message, page, site_of
from t3flow.web.reader import Seen
from t3flow.web.spool import ID, CannotRequest

Route = Callable[[Request], Awaitable[Response]]


def for_admins(route: Route) -> Route:
    """Let a route be used by `web.admins` alone, and a form of it only if the page itself sent it."""

    @functools.wraps(route)
    async def guarded(request: Request) -> Response:
        people = site_of(request).people
        viewer = people.of(request)
        if not viewer.is_admin:
            name = viewer.identity or "you, as no name came with the request"
            reason = f" {people.distrusted[:1].upper()}{people.distrusted[1:]}." if people.distrusted else ""
            return message(
                request, 403, "Not allowed", f"Only people named in web.admins may act, and not {name}.{reason}"
            )
        if request.method == "POST":
            require_same_origin(request)
        return await route(request)

    guarded.is_for_admins = True  # type: ignore[attr-defined]  # a test asks each route that takes a form
    return guarded


def route_of(action: Action) -> Route:
    """Return the route of one action: its page, and what its form does."""

    @for_admins
    async def act(request: Request) -> Response:
        if request.method == "POST":
            given = await read_form(request)
            if is_decided(action, given):
                return await hand_over(request, action, given)
        else:
            given = dict(request.query_params)
        return await confirm(request, action, given)

    act.__name__ = action.name
    return act


def is_decided(action: Action, given: dict[str, str]) -> bool:
    """Return whether a form needs no more confirmation: it comes from the page that names what happens, or nothing can be lost."""
    return ID.fullmatch(given.get("id", "")) is not None or not action.is_destructive


async def confirm(request: Request, action: Action, given: dict[str, str]) -> Response:
    """Show what an action will do, and ask."""
    settings = site_of(request).settings

    def show(seen: Seen) -> dict[str, Any]:
        host = _host(request, seen)
        fields = valid(action, given, host)
        versions = slots.installed(settings.paths.versions_dir) if "version" in action.fields else []
        return {
            "consequences": action.consequences(host, fields),
            "versions": versions[::-1],
            "page": frame(request, "/", seen.zone),
            "asked": {key: fields.get(key, "") for key in ("user", "run", "version", "reason", "until")},
        }

    try:
        shown = await site_of(request).reader.run(show)
    except Invalid as error:
        return message(request, 400, f"{action.title}: not possible", _sentence(str(error)))
    shown |= {"title": action.title, "action": action, "request_id": secrets.token_hex(16)}
    return page("confirm.html", shown)


async def hand_over(request: Request, action: Action, given: dict[str, str]) -> Response:
    """Put the request of a person into the spool, and lead them back to the status, which shows what becomes of it."""
    site = site_of(request)
    identity = site.people.of(request).identity

    def put(seen: Seen) -> None:
        fields = valid(action, given, _host(request, seen))
        site.reader.spool.put(identity, action.name, fields, given.get("id", ""))

    try:
        await site.reader.run(put)
    except Invalid as error:
        return message(request, 400, f"{action.title}: not possible", _sentence(str(error)))
    except CannotRequest as error:
        return message(request, 503, f"{action.title}: not handed over", _sentence(str(error)))
    return RedirectResponse(f"/?asked={action.name}", 303)


def _host(request: Request, seen: Seen) -> Host:
    return Host(site_of(request).settings, *seen.known())


def _sentence(text: str) -> str:
    return f"{text[:1].upper()}{text[1:]}."
