"""The sandbox's dispatch pairs browsers, and logs the lines that alert rules match."""

import http.client
from collections.abc import Callable

from scenes import write

from t3flow.sandbox.host import Sandbox


def get(box: Sandbox, person: str, cookie: str = "") -> tuple[int, str]:
    connection = http.client.HTTPConnection("127.0.0.1", box.dispatch_port, timeout=20)
    headers = {"X-authentik-username": person, **({"Cookie": cookie} if cookie else {})}
    connection.request("GET", "/", headers=headers)
    response = connection.getresponse()
    response.read()
    connection.close()
    return response.status, response.getheader("Set-Cookie", "")


def test_a_browser_is_paired_then_passed_on(make_box: Callable[..., Sandbox]) -> None:
    box = make_box(["ada"], consumer=False)
    status, cookie = get(box, "ada@example.test")
    assert status == 302
    assert cookie.startswith("t3_session=")
    assert get(box, "ada@example.test", cookie.split(";")[0])[0] == 200
    assert get(box, "mallory@example.test")[0] in (403, 404)
    log = (box.top / "log" / "dispatch.log").read_text()
    assert "paired user=ada endpoint=/api/auth/bootstrap fallback=true" in log
    assert cookie.split("=")[1].split(";")[0] not in log


def test_failures_are_logged_as_the_rules_know_them(make_box: Callable[..., Sandbox]) -> None:
    rules = [
        {"fault": "mint_fails", "when": {"database_has_project_title": "odd"}},
        {"fault": "pairing_500", "when": {"database_has_project_title": "strange"}},
    ]
    box = make_box(["ada", "grace", "linus"], consumer=False, behavior={"schema_level": 30, "rules": rules})
    write(box.database("ada"), "update projection_projects set title = 'odd'")
    write(box.database("grace"), "update projection_projects set title = 'strange'")
    box.supervise("stop", "linus")
    assert [get(box, f"{user}@example.test")[0] for user in box.users] == [502, 502, 502]
    log = (box.top / "log" / "dispatch.log").read_text()
    assert "mint for ada failed" in log
    assert "pairing for grace returned 500" in log
    assert "pairing exchange for linus failed" in log
