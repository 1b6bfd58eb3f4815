"""The forms that people send: same origin, small, and each field once. Nothing else is read."""

from urllib.parse import parse_qsl, urlsplit

from starlette.requests import Request

MAX_BODY_BYTES = 4096
MAX_FIELDS = 8
KIND = "application/x-www-form-urlencoded"


class Refused(Exception):
    """A request that is not taken. `status`: of the response."""

    def __init__(self, status: int, text: str) -> None:
        super().__init__(text)
        self.status = status


def require_same_origin(request: Request) -> None:
    """Raise Refused for a request that another site may have made a browser send.

    Browsers set Sec-Fetch-Site on requests to https: addresses and to localhost, and no page can change it. Where it is missing, nothing is known.
    Origin is "null" where the page asks for no referrer, as this one does, so that says nothing.
    """
    if request.headers.getlist("sec-fetch-site") != ["same-origin"]:
        raise Refused(
            403,
            "Refused: the browser does not say that this page sent the form. Open the page over https and try again.",
        )
    origins = [origin for origin in request.headers.getlist("origin") if origin != "null"]
    if origins and (len(origins) > 1 or not _is_own(origins[0], request)):
        raise Refused(403, "Refused: the form comes from another site, or the reverse proxy changes Host.")


def _is_own(origin: str, request: Request) -> bool:
    """Return whether an origin is the host that was asked, which the proxy passes on as Host or as X-Forwarded-Host."""
    try:
        parts = urlsplit(origin)
    except ValueError:
        return False
    asked = [*request.headers.getlist("host"), *request.headers.getlist("x-forwarded-host")]
    return (
        parts.scheme in ("https", "http") and bool(parts.netloc) and (parts.netloc in asked or parts.hostname in asked)
    )


async def read_form(request: Request) -> dict[str, str]:
    """Return the fields of a form. Raises Refused for one that is too large, of another kind, or has a field twice."""
    if request.headers.get("content-type", "").partition(";")[0].strip().lower() != KIND:
        raise Refused(415, f"Refused: a form is expected, sent as {KIND}.")
    body = bytearray()
    async for part in request.stream():
        body += part
        if len(body) > MAX_BODY_BYTES:
            raise Refused(413, f"Refused: the form is larger than {MAX_BODY_BYTES} bytes.")
    try:
        fields = parse_qsl(
            body.decode(), keep_blank_values=True, strict_parsing=bool(body), max_num_fields=MAX_FIELDS, errors="strict"
        )
    except ValueError as error:
        raise Refused(400, "Refused: the form cannot be read.") from error
    if len(dict(fields)) != len(fields):
        raise Refused(400, "Refused: the form has a field twice.")
    return {name: value.strip() for name, value in fields}
