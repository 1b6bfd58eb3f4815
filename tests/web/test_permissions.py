"""Who may act, and what a request must be so that it counts as a person's own."""

import http.client
import socket
from collections.abc import Callable
from pathlib import Path

import pytest
from pages import ADMIN, FIRST, HEADER, NEXT, SAME_ORIGIN, VIEWER, PageHost, UnixConnection

from t3flow.sandbox.host import free_port
from t3flow.web.acts import ACTIONS
from t3flow.web.app import create_app
from t3flow.web.sockets import CannotListen, listen

FORM = "application/x-www-form-urlencoded"


def test_every_route_that_takes_a_form_is_for_administrators(make_host: Callable[..., PageHost]) -> None:
    """By a mark on the function itself, whatever its address."""
    routes = [route for route in create_app(make_host().settings, "").routes if "POST" in route.methods]  # type: ignore[attr-defined]
    assert len(routes) == len(ACTIONS)
    assert all(route.endpoint.is_for_admins for route in routes)  # type: ignore[attr-defined]


def test_others_get_no_buttons_and_are_refused(host: PageHost) -> None:
    """A viewer, a stranger, and names that are nearly an administrator's: no button, no page of an action, no request."""
    run = host.begin()
    host.defer("ada")
    pages = ["/", f"/runs/{run}", "/users/ada"]
    buttons = [host.ask(path, ADMIN).text.count("/actions/") for path in pages]
    assert min(buttons) > 0
    nearly = [VIEWER, "", ADMIN.upper(), f"{ADMIN}x", f"{ADMIN},{VIEWER}", ADMIN[:-1], "admin", "*"]
    for identity in nearly:
        for path in pages:
            answer = host.ask(path, identity)
            assert answer.status == 200
            assert '"/actions/' not in answer.text
            assert "<button" not in answer.text
        for action in ACTIONS:
            assert host.ask(f"/actions/{action.name}?user=ada&run={run}", identity).status == 403
            fields = {"user": "ada", "run": run, "id": "0" * 32}
            assert host.post(f"/actions/{action.name}", fields, identity).status == 403
    assert host.requests() == []


def test_an_administrator_s_action_is_a_small_file(host: PageHost) -> None:
    """With who asked, and only the fields that the action takes; the page shows it as requested until the consumer takes it."""
    run = host.begin()
    host.defer("ada")
    given = {"user": "ada", "run": run, "version": FIRST, "reason": "demo <day>", "until": "2099-01-01", "nonsense": ""}
    for number, action in enumerate(ACTIONS):
        answer = host.post(f"/actions/{action.name}", {**given, "id": f"{number:032x}"})
        assert (answer.status, answer.headers["location"]) == (303, f"/?asked={action.name}"), answer.text
    for number, (action, request) in enumerate(zip(ACTIONS, host.requests(), strict=True)):
        own = {key: given[key] for key in action.fields}
        head = {"schema": 1, "id": f"{number:032x}", "identity": ADMIN, "action": action.name}
        assert request == {**head, **own, "at": request["at"]}
    shown = host.ask("/?asked=freeze", ADMIN).text
    assert "Requested: freeze." in shown
    assert "<strong>rollback</strong> ada …" not in shown
    assert shown.count(f"requested by {ADMIN}") == len(ACTIONS)
    assert "Requested: <" not in host.ask("/?asked=<script>", ADMIN).text


def test_a_form_that_is_sent_twice_is_one_request(host: PageHost) -> None:
    """The page that asks gives it an id of its own."""
    for _ in range(3):
        assert host.post("/actions/freeze", {"id": "ab" * 16}).status == 303
    assert [request["id"] for request in host.requests()] == ["ab" * 16]


@pytest.mark.parametrize("action", [action.name for action in ACTIONS if action.is_destructive])
def test_what_destroys_is_named_and_confirmed(host: PageHost, action: str) -> None:
    """A form that does not come from the page with the consequences leads there; that names users and versions."""
    run = host.begin(target=NEXT)
    host.step(run, "verify_user", "ada", NEXT)
    answer = host.post(f"/actions/{action}", {"run": run, "version": FIRST})
    assert answer.status == 200
    assert "What will happen" in answer.text
    assert host.requests() == []
    for word in {
        "rollback": ["ada", "grace", FIRST, NEXT],
        "cancel": ["ada", "grace", NEXT],
        "freeze": [NEXT, run[-6:]],
    }[action]:
        assert word in answer.text, word


def test_an_action_on_nothing_is_refused(host: PageHost) -> None:
    """Users, runs, versions and dates that are none; and fields that are too long."""
    ended = host.begin()
    host.end(ended)
    tried = [
        ("hold", {"user": "mallory"}),
        ("hold", {}),
        ("hold", {"user": "ada", "until": "tomorrow"}),
        ("hold", {"user": "ada", "until": "2001-01-01"}),
        ("hold", {"user": "ada", "reason": "x" * 301}),
        ("hold", {"user": "ada", "reason": "a\x1b[31m"}),
        ("cancel", {"run": "bump-1"}),
        ("cancel", {"run": ended}),
        ("rollback", {"version": "../../etc"}),
        ("rollback", {"version": "9.9.9"}),
        ("drain", {"user": "../ada"}),
    ]
    for action, fields in tried:
        answer = host.post(f"/actions/{action}", {**fields, "id": "0" * 32})
        assert answer.status == 400, (action, fields)
        assert "not possible" in answer.text
    assert host.requests() == []


# Cross-site requests ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "headers",
    [
        {},
        {"Sec-Fetch-Site": "cross-site"},
        {"Sec-Fetch-Site": "same-site"},
        {"Sec-Fetch-Site": "none"},
        {"Sec-Fetch-Site": "same-origin, cross-site"},
        {**SAME_ORIGIN, "Origin": "https://evil.example"},
        {"Sec-Fetch-Site": "cross-site", "Origin": "null"},
        {**SAME_ORIGIN, "Origin": "https://page.example.test.evil.example"},
    ],
)
def test_a_form_of_another_site_is_refused(host: PageHost, headers: dict[str, str]) -> None:
    """An administrator's browser sends it with their name, and nothing happens."""
    answer = host.ask("/actions/freeze", ADMIN, "POST", "id=" + "0" * 32, **{"Content-Type": FORM, **headers})
    assert answer.status == 403
    assert host.requests() == []


def test_the_page_s_own_form_is_taken(host: PageHost) -> None:
    """The control of the refusals: the same request with what a browser says about the page itself, also behind a proxy that renames the host."""
    own = {"Content-Type": FORM, **SAME_ORIGIN}
    for more in (
        {},
        {"Origin": "null"},
        {"Origin": "https://page.example.test"},
        {"Origin": "https://t3.example", "X-Forwarded-Host": "t3.example"},
    ):
        assert host.ask("/actions/freeze", ADMIN, "POST", "id=" + "0" * 32, **own, **more).status == 303


def test_a_form_is_small_plain_and_unambiguous(host: PageHost) -> None:
    """No upload, no JSON, no field twice, no file of a megabyte."""
    for body, kind, status in [
        ("id=1&id=2", FORM, 400),
        ("reason=" + "x" * 5000, FORM, 413),
        ("&".join(f"a{number}=1" for number in range(50)), FORM, 400),
        ("reason=%ff%fe", FORM, 400),
        ("reason", FORM, 400),
        ("{}", "application/json", 415),
        ("--x\r\n\r\n--x--", "multipart/form-data; boundary=x", 415),
        ("reason=a", "text/plain", 415),
        ("", "", 415),
    ]:
        answer = host.ask("/actions/freeze", ADMIN, "POST", body, **{"Content-Type": kind, **SAME_ORIGIN})
        assert answer.status == status, (body[:30], kind)
    for method in ("PUT", "DELETE", "PATCH", "OPTIONS"):
        assert host.ask("/actions/freeze", ADMIN, method, **SAME_ORIGIN).status == 405
    for path in ("/", "/runs", "/live"):
        assert host.post(path, {}).status == 405
    assert host.requests() == []


# Names --------------------------------------------------------------------------------------------------------------


def test_a_request_with_two_names_is_refused(host: PageHost) -> None:
    """A browser's own header beside the proxy's, in either order and whatever its case; names that look alike are other headers."""
    for names in ([HEADER, HEADER], [HEADER.upper(), HEADER.lower()]):
        for values in ([ADMIN, VIEWER], [VIEWER, ADMIN], [ADMIN, ADMIN]):
            for path in ("/", "/actions/freeze", "/live", "/users/ada"):
                connection = UnixConnection(host.socket)
                connection.putrequest("GET", path)
                for name, value in zip(names, values, strict=True):
                    connection.putheader(name, value)
                connection.endheaders()
                assert connection.getresponse().status == 400, path
                connection.close()
    similar = {
        HEADER.replace("-", "_"): ADMIN,
        "Remote-User": ADMIN,
        "X-Forwarded-User": ADMIN,
        "X-authentik-email": ADMIN,
    }
    connection = UnixConnection(host.socket)
    connection.request("GET", "/actions/freeze", headers=similar)
    assert connection.getresponse().status == 403


def test_a_name_over_tcp_counts_for_nothing(make_host: Callable[..., PageHost]) -> None:
    """On a port of loopback every account could claim any name, so the page is read-only there, and answers to localhost alone."""
    port = free_port()
    with make_host(listen=f"127.0.0.1:{port}").serving() as host:

        def ask(path: str, method: str = "GET", **headers: str) -> tuple[int, str]:
            connection = http.client.HTTPConnection("127.0.0.1", port, timeout=10)
            connection.request(method, path, headers={HEADER: ADMIN, **headers})
            response = connection.getresponse()
            return response.status, response.read().decode()

        status, text = ask("/")
        assert (status, "<button" in text, "/actions/freeze" in text) == (200, False, False)
        assert "Read-only: user names are not taken from a TCP port" in text
        assert ask("/actions/freeze")[0] == 403
        assert ask("/actions/freeze", "POST", **SAME_ORIGIN, **{"Content-Type": FORM})[0] == 403
        assert ask("/", Host="evil.example")[0] == 421
        assert ask("/", Host=f"localhost:{port}")[0] == 200
        assert host.requests() == []


def test_a_socket_that_every_account_can_open_carries_no_names(make_host: Callable[..., PageHost]) -> None:
    """One of systemd's with SocketMode=0666: looking is possible, acting is not. Its control: the same with 0660."""
    for mode, status in ((0o666, 403), (0o660, 200)):
        made = make_host()
        with socket.socket(socket.AF_UNIX) as given:
            given.bind(str(made.socket))
            given.listen(8)
            made.socket.chmod(mode)
            with made.serving_on(given):
                assert made.ask("/", ADMIN).status == 200
                assert made.ask("/actions/freeze", ADMIN).status == status


def test_the_page_s_own_socket_is_closed_to_others(host: PageHost) -> None:
    """From the moment that it exists; what tries it as another account is in tests/root."""
    assert host.socket.stat().st_mode & 0o777 == 0o660


def test_a_socket_of_a_killed_page_is_replaced_and_nothing_else(tmp_path: Path) -> None:
    """A file stays, and so does the socket of a page that runs."""
    path = tmp_path / "s"
    first = listen(f"unix://{path}")
    with pytest.raises(CannotListen, match="another process serves"):
        listen(f"unix://{path}")
    first.socket.close()  # as a kill leaves it
    second = listen(f"unix://{path}")
    second.close()
    assert not path.exists()
    path.write_text("precious")
    with pytest.raises(CannotListen, match="is not a socket"):
        listen(f"unix://{path}")
    assert path.read_text() == "precious"
    for wrong in ("", f"unix://{tmp_path}/none/s", f"unix:///{'x' * 200}"):
        with pytest.raises(CannotListen):
            listen(wrong)


def test_headers_keep_other_sites_out(host: PageHost) -> None:
    """On every kind of response."""
    for path in ("/", "/nothing", "/actions/freeze", "/assets/live.js", "/runs?page=x"):
        headers = host.ask(path).headers
        policy = headers["content-security-policy"]
        assert "default-src 'none'" in policy
        assert "frame-ancestors 'none'" in policy
        assert "unsafe" not in policy
        assert (headers["referrer-policy"], headers["x-content-type-options"]) == ("no-referrer", "nosniff")
        assert ("no-store" in headers["cache-control"]) is not path.startswith("/assets")
        assert "server" not in headers
    assert host.ask("/assets/../people.py").status == 404
    assert host.ask("/assets/%2e%2e%2fpeople.py").status == 404
    assert host.ask("/live", ADMIN, **{"Sec-Fetch-Site": "cross-site"}).status == 403


def test_a_spool_that_cannot_take_it_says_so(host: PageHost) -> None:
    """Full, or gone: nothing is done, and the person is told."""
    folder = host.settings.paths.state_dir / "requests"
    for number in range(64):
        (folder / f"{number:032x}.json").write_text("rubbish")
    answer = host.post("/actions/unfreeze", {})
    assert (answer.status, "64 requests wait already" in answer.text) == (503, True)
    assert host.ask("/actions", ADMIN).status == 200
    for path in folder.iterdir():
        path.unlink()
    folder.rmdir()
    answer = host.post("/actions/unfreeze", {})
    assert (answer.status, "cannot be written" in answer.text) == (503, True)
