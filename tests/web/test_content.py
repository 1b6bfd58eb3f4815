"""What the page shows, as a browser without JavaScript gets it."""

import os
import re
import time
from collections.abc import Callable
from contextlib import suppress
from html.parser import HTMLParser

import pytest
from pages import ADMIN, FIRST, NEXT, VIEWER, PageHost

from t3flow.host.records import actions


class Text(HTMLParser):
    """The text of a page, and whether its elements close."""

    VOID = ("meta", "link", "input", "br")

    def __init__(self, html: str) -> None:
        super().__init__()
        self.parts: list[str] = []
        self.open: list[str] = []
        self.feed(html)

    def handle_starttag(self, tag: str, attrs: object) -> None:
        if tag not in self.VOID:
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        self.parts.append(data)


def text_of(html: str) -> str:
    """Return the text of a page on one line. Fails for one that is not well-formed."""
    found = Text(html)
    assert found.open == []
    return " ".join("".join(found.parts).split())


def test_a_quiet_host_says_that_nothing_is_wrong(host: PageHost) -> None:
    """With its users, their version, the schedule's zone, and nothing from elsewhere."""
    answer = host.ask("/", VIEWER)
    text = text_of(answer.text)
    assert answer.status == 200
    assert "Nothing is wrong" in text
    assert "3 users" in text
    assert "✓ up to date" in text
    assert "Times are in Europe/Vienna (CE" in text
    assert f'<code title="{NEXT}">…20260609.501</code>' in answer.text
    assert not re.findall(r'(?:src|href|action)="(?!/|#)', answer.text)


def test_what_is_wrong_comes_first_with_what_to_type(host: PageHost) -> None:
    """Also a user who waits: for what, since when, and until when."""
    host.observe(ada={"running_version": FIRST}, grace={"active": False, "running_version": None})
    host.defer("ada", detail="a turn is running")
    answer = host.ask("/", VIEWER)
    text = text_of(answer.text)
    problem = "The server of grace is not runningstart it with: systemctl start t3-serve@.service"
    assert problem in text
    assert text.index(problem) < text.index("Default")
    row = text_of(re.findall(r'<tr role="row" id="user-ada">.*?</tr>', answer.text)[0])
    assert re.fullmatch(
        r"ada0\.0\.24 →waits for …20260609\.501… waitsa turn is runningjust now, .*in 9 min, .*", row
    ), row


def test_without_a_consumer_the_page_says_so_first(make_host: Callable[..., PageHost]) -> None:
    """And shows the rest as ever; also where the journal was closed well and has no log beside it."""
    made = make_host()
    made.consumer.close()
    made.journal._connection("FULL").close()
    made.journal._connection("NORMAL").close()
    with made.serving():
        assert not made.settings.paths.state_dir.joinpath("journal.db-wal").exists()
        text = text_of(made.ask("/", VIEWER).text)
        first = text.index("No consumer is running, so nothing is updated")
        assert first < text.index("systemctl start t3flow") < text.index("Default")
        assert "linus" in text


def damaged(host: PageHost) -> None:
    (host.settings.paths.state_dir / "journal.db").write_bytes(b"rubbish" * 1000)


def newer(host: PageHost) -> None:
    host.journal._connection("FULL").execute("pragma user_version = 99")


def missing(host: PageHost) -> None:
    (host.settings.paths.state_dir / "journal.db").unlink()


def empty(host: PageHost) -> None:
    (host.settings.paths.state_dir / "journal.db").write_bytes(b"")


@pytest.mark.parametrize(
    ("harm", "words"),
    [
        (damaged, "not a"),
        (newer, "was written by a newer t3flow"),
        (missing, "there is no journal"),
        (empty, "is not a journal"),
    ],
)
def test_a_journal_that_cannot_be_read_is_the_one_problem(
    make_host: Callable[..., PageHost], harm: Callable[[PageHost], None], words: str
) -> None:
    """Each page says so in a sentence, none fails, nothing is changed, and all is well again with the journal."""
    made = make_host()
    made.journal.query("pragma wal_checkpoint(truncate)")
    kept = (made.settings.paths.state_dir / "journal.db").read_bytes()
    harm(made)
    with made.serving():
        present = made.settings.paths.state_dir.joinpath("journal.db")
        before = present.read_bytes() if present.exists() else None
        answer = made.ask("/", ADMIN)
        assert answer.status == 200
        assert "1 problem" in text_of(answer.text)
        assert words in text_of(answer.text), text_of(answer.text)
        for path in (
            "/runs",
            "/runs/x",
            "/users/ada",
            "/settings",
            "/snapshots",
            "/actions",
            "/actions/freeze",
        ):
            assert made.ask(path, ADMIN).status in (503, 404), path
        assert (present.read_bytes() if present.exists() else None) == before
        for name in ("journal.db-wal", "journal.db-shm"):
            present.with_name(name).unlink(missing_ok=True)
        present.write_bytes(kept)
        assert "Nothing is wrong" in made.ask("/", ADMIN).text


def test_a_run_has_an_address_with_steps_attempts_and_evidence(host: PageHost) -> None:
    """Its outcome, how each user fared, and who asked for it."""
    run = host.begin(target=NEXT)
    verdict = {"verdict": "fail", "version": NEXT, "seed": "ada", "failed": "GET / is 500", "not_isolated": ""}
    checks = [
        {"name": "starts", "ok": True, "evidence": "in 1 s"},
        {"name": "pairs", "ok": False, "evidence": "GET / is 500"},
    ]
    host.step(
        run, "run_trials", "slot", NEXT, [{"user": "ada"}], 1, None, result=[{**verdict, "checks": checks}], attempt=2
    )
    fared = {"result": "deferred", "version": FIRST, "downtime_s": None, "reason": "a turn is running"}
    host.end(run, "gate_failed", "it fails on ada", "failed", users={"ada": fared})
    host.end(other := host.begin(), "up_to_date")
    who = actions.Actor("cli", "grace")
    actions.begin(host.journal, "a" * 32, who, "bump", {}, run)
    text = text_of(host.ask(f"/runs/{run}", VIEWER).text)
    for part in (
        "gate failed: it fails on ada",
        "asked for by grace",
        "attempt 2",
        "✗pairs: GET / is 500",
        "adadeferred",
    ):
        assert part in text
    assert other not in text
    answer = host.ask("/runs/bump-19700101T000000-000000")
    assert (answer.status, "There is no run" in answer.text) == (404, True)


def test_runs_are_found_by_outcome_user_and_end(host: PageHost) -> None:
    """By the address alone, on several pages; a filter that cannot be read is named."""
    day = 86400.0
    for number in range(120):
        fared = (
            {"ada": {"result": "restarted", "version": NEXT, "downtime_s": 1.0, "reason": ""}} if number == 7 else {}
        )
        run = host.begin(due=0)
        host.end(run, "up_to_date" if number else "gate_failed", users=fared)
        host.end_at(run, time.time() - number * day)
    assert "120 runs, page 1 of 3" in text_of(host.ask("/runs").text)
    assert host.ask("/runs?page=3").text.count('href="/runs/bump-') == 20
    assert "page=2" in host.ask("/runs?outcome=up_to_date").text
    assert "1 run" in text_of(host.ask("/runs?outcome=gate_failed").text)
    assert "1 run" in text_of(host.ask("/runs?user=ada").text)
    week = time.strftime("%Y-%m-%d", time.localtime(time.time() - 6.5 * day))
    assert 6 <= host.ask(f"/runs?since={week}").text.count('href="/runs/bump-') <= 8
    both = text_of(host.ask(f"/runs?since={week}&until={week}&user=ada").text)
    assert re.search(r"[01] runs?", both)
    for bad in ("since=yesterday", "page=x", "until=9999-12-31"):
        answer = host.ask(f"/runs?{bad}")
        assert (answer.status, "The filter was ignored" in answer.text) == (200, True), bad


def test_the_settings_in_force_have_sources_and_no_secrets(host: PageHost) -> None:
    """They are what the consumer noted."""
    text = text_of(host.ask("/settings").text)
    assert f"web.admins['{ADMIN}']file {host.config}" in text
    assert "gate.port3799default" in text
    assert "open-sesame" not in text
    assert "redis://:***@localhost/1" in text


def test_a_user_has_a_page(host: PageHost) -> None:
    """Full versions, the deferral, and 404 for a name that is none."""
    run = host.defer("ada")
    text = text_of(host.ask("/users/ada").text)
    for part in ("Waits for", NEXT[-12:], FIRST, "a turn is running", run[-6:]):
        assert part in text
    assert host.ask("/users/nobody").status == 404


def test_recent_actions_name_their_people(host: PageHost) -> None:
    """The result with them."""
    host_actions = [("cli", "grace", "freeze", "frozen"), ("page", ADMIN, "unfreeze", "no longer frozen")]
    for number, (via, name, action, result) in enumerate(host_actions):
        actions.begin(host.journal, f"{number:032x}", actions.Actor(via, name), action, {}, "")
        actions.finish(host.journal, f"{number:032x}", result)
    text = text_of(host.ask("/actions").text)
    assert "freezegrace" in text
    assert f"unfreeze{ADMIN} on the page" in text
    assert "no longer frozen" in text


def test_a_hundred_users_and_a_thousand_runs_fit(make_host: Callable[..., PageHost]) -> None:
    """The figures are measured by bench/page.py; here it must not be out of proportion."""
    made = make_host(tuple(f"user{number:03}" for number in range(100)))
    for number in range(0, 100, 3):
        made.defer(f"user{number:03}")
    with made.journal.transaction() as connection:
        for number in range(1000):
            row = (f"bump-{number:04}", "bump", "{}", "succeeded", "updated", "{}", 0.0, float(number))
            connection.execute(
                "insert into runs (id, workflow, args, status, outcome, result, created, updated) values (?, ?, ?, ?, ?, ?, ?, ?)",
                row,
            )
    with made.serving():
        answer = made.ask("/", VIEWER)
        assert len(answer.text.encode()) < 150_000
        assert answer.text.count('id="user-user') == 100
        assert "1000 runs" in made.ask("/runs").text


def test_the_page_never_writes_to_the_journal(host: PageHost) -> None:
    """It opens the file for reading alone, whoever looks."""
    for path in ("/", "/runs", "/actions/freeze"):
        host.ask(path, ADMIN)
    opened = []
    for entry in os.scandir(f"/proc/{host.child.pid}/fd"):
        with suppress(FileNotFoundError):  # it has closed it since
            opened.append(os.readlink(entry.path))
    assert not [path for path in opened if path.endswith("journal.db")]  # each query opens and closes it
