"""The stream of changes: what comes, how soon, and once for all."""

import time
from collections.abc import Callable

from pages import ADMIN, VIEWER, Events, PageHost, takes_less

from t3flow.host import freeze
from t3flow.web.screens import Screen, changes


def test_a_change_arrives_within_a_second(host: PageHost) -> None:
    """Of a user, of a run, and of the freeze file that is made by hand; only what differs is sent."""
    stream = Events(host)
    stream.next()

    def changed(make: Callable[[], object], part: str) -> dict[str, str]:
        make()
        while part not in (parts := {change[1]: change[2] for change in stream.next()}):
            pass
        return parts

    users = ("ada", "grace", "linus")
    assert takes_less(
        1,
        lambda number: changed(lambda: host.defer(users[number % 3], detail=f"{number}"), f"user-{users[number % 3]}"),
    )
    assert takes_less(1, lambda number: changed(lambda: host.end(host.begin()), "recent-runs"))
    seen = []
    file = host.settings.paths.freeze_file
    assert takes_less(
        1, lambda number: seen.append(changed(lambda: file.write_text(f"by hand {number}\n"), "problems"))
    )
    assert "by hand 0" in seen[0]["problems"]
    assert "Unfreeze" in seen[0]["summary"]
    stream.close()


def test_only_the_row_that_differs_is_sent(host: PageHost) -> None:
    """The other users' are not."""
    stream = Events(host)
    stream.next()
    host.defer("ada")
    ids: set[str] = set()
    while "user-ada" not in ids:
        ids |= {change[1] for change in stream.next()}
    assert {"user-grace", "users"}.isdisjoint(ids)
    stream.close()


def test_a_viewer_gets_no_buttons_in_the_stream_either(host: PageHost) -> None:
    """The same change, made for each of the two kinds of viewers."""
    both = [Events(host, identity=identity) for identity in (ADMIN, VIEWER)]
    for stream in both:
        stream.next()
    freeze.freeze(host.settings, host.journal, "a reason")
    texts = ["".join(part for change in stream.next() for part in change) for stream in both]
    assert ["/actions/" in text for text in texts] == [True, False]
    assert all("a reason" in text for text in texts)
    for stream in both:
        stream.close()


def test_who_has_the_page_gets_only_changes(host: PageHost) -> None:
    """The page names its state; a browser that comes back with it is not sent the same again, and with an older one gets all."""
    page = host.ask("/", ADMIN).text
    token = page.partition('data-token="')[2].partition('"')[0]
    stream = Events(host, f"/live?token={token}")
    freeze.freeze(host.settings, host.journal, "")
    assert "users" not in {change[1] for change in stream.next()}
    stream.close()
    stream = Events(host, f"/live?token={token}", **{"Last-Event-ID": token})
    assert "users" in {change[1] for change in stream.next()}
    stream.close()


def test_a_run_is_live_while_it_lasts(host: PageHost) -> None:
    """Each step is added to those that are there."""
    run = host.begin()
    assert f'data-live="/live/runs/{run}"' in host.ask(f"/runs/{run}").text
    stream = Events(host, f"/live/runs/{run}")
    stream.next()
    host.step(run, "back_up", "ada", "0.0.24", "0.0.25", False, result={"problem": ""})
    [added] = [change for change in stream.next() if change[0] == "add"]
    assert "Backed up ada" in added[2]
    host.end(run)
    stream.next()
    stream.close()
    assert "data-live" not in host.ask(f"/runs/{run}").text


def test_the_end_of_the_page_ends_the_streams(make_host: Callable[..., PageHost]) -> None:
    """At once: a restart of the service need not wait for its viewers."""
    made = make_host()
    made.start()
    streams = [Events(made) for _ in range(8)]
    began = time.monotonic()
    made.stop()
    assert time.monotonic() - began < 8
    for stream in streams:
        stream.close()


def test_only_what_differs_is_a_change() -> None:
    """How long ago a time was does not; a new row is added, a changed one replaced, and a gone one costs the whole list."""
    old = Screen({"a": '<span data-at="1">1 s ago</span>'}, {"l": {"x": "X", "y": "Y"}})
    assert changes(old, Screen({"a": '<span data-at="1">2 s ago</span>'}, {"l": {"x": "X", "y": "Y"}})) == []
    assert old.token == Screen({"a": '<span data-at="1">2 s ago</span>'}, old.rows).token
    assert changes(old, old._replace(rows={"l": {"x": "X", "y": "Z", "n": "N"}})) == [
        ["row", "y", "Z"],
        ["add", "l", "N"],
    ]
    assert changes(old, old._replace(rows={"l": {"y": "Y"}})) == [["set", "l", "Y"]]
    assert changes(old, old._replace(parts={"a": "<p>"})) == [["set", "a", "<p>"]]
