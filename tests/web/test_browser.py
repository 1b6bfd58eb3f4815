"""The page in a real browser: live, by keyboard, on a small screen, in the dark, without JavaScript, and for a screen reader."""

import os
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from pages import ADMIN, VIEWER, PageHost, takes_less
from playwright.sync_api import Browser, Page, sync_playwright
from proxy import Proxy

CHROMIUM = "/usr/bin/chromium"
LONG = "averyveryverylongreasonwithoutanyspacethatdoesnotfit" * 4
PAGES = (
    "/",
    "/runs",
    "/snapshots",
    "/actions",
    "/settings",
    "/users/ada",
    "/actions/rollback",
    "/actions/hold?user=ada",
)

pytestmark = pytest.mark.skipif(
    not os.path.exists(CHROMIUM), reason="there is no Chromium: apt-get install --no-install-recommends chromium"
)
CHECKS = """() => {
  const wrong = [];
  for (const [name, least] of [['header', 1], ['nav', 1], ['main', 1], ['footer', 1], ['h1', 1]]) {
    const count = document.querySelectorAll(name === 'header' || name === 'footer' ? `body > ${name}` : name).length;
    if (name === 'nav' ? count < least : count !== least) wrong.push(`${count} ${name}`);
  }
  const ids = [...document.querySelectorAll('[id]')].map((each) => each.id);
  for (const id of new Set(ids)) if (ids.filter((each) => each === id).length > 1) wrong.push(`id ${id} twice`);
  for (const each of document.querySelectorAll('[aria-labelledby]'))
    if (!document.getElementById(each.getAttribute('aria-labelledby'))) wrong.push('a label is missing');
  for (const each of document.querySelectorAll('nav, section'))
    if (!each.ariaLabel && !each.getAttribute('aria-labelledby')) wrong.push(`${each.tagName} without a name`);
  for (const each of document.querySelectorAll('input:not([type=hidden]), select')) if (!each.labels.length) wrong.push('no label');
  for (const each of document.querySelectorAll('a, button')) if (!each.textContent.trim()) wrong.push('a control without words');
  for (const each of document.querySelectorAll('table')) if (!each.caption) wrong.push('a table without a caption');
  for (const each of document.querySelectorAll('th')) if (!each.scope) wrong.push('th without scope');
  if (!document.documentElement.lang) wrong.push('no language');
  let level = 1;
  for (const each of document.querySelectorAll('h1, h2, h3')) {
    if (Number(each.tagName[1]) > level + 1) wrong.push(`${each.tagName} after level ${level}`);
    level = Number(each.tagName[1]);
  }
  const rgb = (text) => (text.match(/[\\d.]+/g) || []).map(Number);
  const light = (color) => { const [r, g, b] = color.map((each) => { each /= 255; return each <= 0.03928 ? each / 12.92 : ((each + 0.055) / 1.055) ** 2.4; });
    return 0.2126 * r + 0.7152 * g + 0.0722 * b; };
  const ground = (each) => { for (; each; each = each.parentElement) { const color = rgb(getComputedStyle(each).backgroundColor);
    if (color.length === 3 || color[3] > 0) return color.slice(0, 3); } return [255, 255, 255]; };
  const walker = document.createTreeWalker(document.body, NodeFilter.SHOW_TEXT);
  while (walker.nextNode()) {
    const each = walker.currentNode.parentElement;
    if (!walker.currentNode.textContent.trim() || !each.getClientRects().length || each.closest('.unseen, noscript, option')) continue;
    const [a, b] = [light(rgb(getComputedStyle(each).color)), light(ground(each))];
    const contrast = (Math.max(a, b) + 0.05) / (Math.min(a, b) + 0.05);
    if (contrast < 4.5) wrong.push(`contrast ${contrast.toFixed(2)}: ${walker.currentNode.textContent.trim().slice(0, 40)}`);
  }
  return wrong;
}"""
"""What can be checked of WCAG without a person: landmarks, names, labels, tables, order of headings, contrast."""


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    """Start Chromium once. It has no sandbox of its own inside the namespaces of the tests."""
    with sync_playwright() as playwright:
        started = playwright.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox", "--disable-gpu"])
        yield started
        started.close()


@pytest.fixture
def troubled(host: PageHost) -> PageHost:
    """Return a host where much is wrong, with long words and markup in it."""
    host.observe(
        grace={"active": False, "running_version": None}, linus={"why_unmanaged": f"{LONG}: see t3flow doctor {LONG}"}
    )
    host.defer("ada", "running_process", f"a process is still running: {LONG} <b>bold</b>")
    run = host.begin(target=LONG)
    verdict = {"verdict": "fail", "version": LONG, "seed": "ada", "failed": LONG, "not_isolated": ""}
    host.step(
        run,
        "run_trials",
        "slot",
        LONG,
        [{"user": "ada"}],
        1,
        None,
        result=[{**verdict, "checks": [{"name": "pairs", "ok": False, "evidence": LONG}]}],
    )
    ended = host.begin()
    fared = {"result": "failed", "version": LONG, "downtime_s": 1.0, "reason": LONG}
    host.end(ended, "gate_failed", LONG, "failed", users={"ada": fared})
    return host


@pytest.fixture
def open_page(browser: Browser) -> Iterator[Callable[..., Page]]:
    """Open the page of a host as a person, in a context of its own. In the end, nothing was asked of others and nothing was blocked."""
    closing: list[Callable[[], Any]] = []
    complaints: list[str] = []

    def opened(host: PageHost, path: str = "/", identity: str = ADMIN, **options: Any) -> Page:
        proxy = Proxy(host.socket, identity)
        context = browser.new_context(base_url=proxy.url, **options)
        closing.extend([proxy.close, context.close])
        page = context.new_page()
        page.set_default_timeout(10_000)
        page.on("console", lambda message: complaints.append(message.text) if message.type == "error" else None)
        page.on("pageerror", lambda error: complaints.append(str(error)))
        page.on(
            "request", lambda request: None if request.url.startswith(proxy.url) else complaints.append(request.url)
        )
        page.goto(path)
        return page

    yield opened
    for close in reversed(closing):
        close()
    assert complaints == []


def test_a_change_is_on_screen_within_a_second(host: PageHost, open_page: Callable[..., Page]) -> None:
    """From the commit to what is seen; the focus stays where it was."""
    page = open_page(host)
    page.get_by_text("This page is live.").wait_for()
    page.get_by_role("link", name="ada", exact=True).focus()

    def deferred(number: int) -> None:
        user = host.users[number % len(host.users)]
        host.defer(user, "active_turn", f"for the time {number}")
        page.locator(f"#user-{user}").get_by_text(f"for the time {number}").wait_for()

    assert takes_less(1, deferred)
    assert page.evaluate("document.activeElement.textContent") == "ada"
    run = host.begin()
    page.get_by_role("link", name=run[:4]).first.wait_for()
    page.locator("#news").get_by_text("Nothing is wrong. A bump is in progress.").wait_for(state="attached")


def test_a_freeze_by_keyboard(host: PageHost, open_page: Callable[..., Page]) -> None:
    """Skip link, button, the page that names what happens, a reason, and the request; focus is always visible."""
    page = open_page(host)
    page.keyboard.press("Tab")
    assert page.evaluate("document.activeElement.className") == "skip"
    page.keyboard.press("Enter")
    for _ in range(20):
        page.keyboard.press("Tab")
        if page.evaluate("document.activeElement.id") == "freeze":
            break
    assert page.evaluate("getComputedStyle(document.activeElement).outlineStyle") == "solid"
    page.keyboard.press("Enter")
    page.get_by_role("heading", name="What will happen").wait_for()
    assert host.requests() == []
    while page.evaluate("document.activeElement.name") != "reason":
        page.keyboard.press("Tab")
    page.keyboard.type("demo day")
    page.keyboard.press("Enter")
    page.get_by_text("Requested: freeze.").wait_for()
    [request] = host.requests()
    assert (request["action"], request["reason"], request["identity"]) == ("freeze", "demo day", ADMIN)
    page.get_by_text(f"requested by {ADMIN}").wait_for()


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_small_screens_and_accessibility(troubled: PageHost, open_page: Callable[..., Page], scheme: str) -> None:
    """No page scrolls sideways at 320 pixels, whatever words it has; and each passes the checks, in light and dark."""
    page = open_page(troubled, color_scheme=scheme, viewport={"width": 320, "height": 640})
    runs = [run.id for run in troubled.journal.runs("workflow = 'bump'")]
    for path in (*PAGES, *(f"/runs/{run}" for run in runs), f"/actions/cancel?run={runs[0]}"):
        page.goto(path)
        wide = page.evaluate("document.documentElement.scrollWidth")
        assert wide <= 320, (path, wide)
        assert page.evaluate(CHECKS) == [], path
    page.set_viewport_size({"width": 1200, "height": 800})
    page.goto("/")
    assert page.evaluate(CHECKS) == []
    brightness = page.evaluate(
        "getComputedStyle(document.body).backgroundColor.match(/\\d+/g).reduce((a, b) => a + Number(b), 0)"
    )
    assert (brightness > 600) is (scheme == "light")


def test_the_checks_notice_what_is_wrong(host: PageHost, open_page: Callable[..., Page]) -> None:
    """Their control."""
    page = open_page(host)
    page.evaluate(
        "document.querySelector('main').innerHTML = '<h3 id=a>x</h3><p id=a>grey</p><input><table><th>x</table>'; document.querySelector('main p').style.color = '#999'"
    )
    assert len(page.evaluate(CHECKS)) >= 6


def test_without_javascript_it_is_complete(host: PageHost, open_page: Callable[..., Page]) -> None:
    """Everything can be read and done; the page says that it does not follow by itself."""
    host.defer("ada")
    page = open_page(host, java_script_enabled=False)
    page.get_by_text("a turn is running").wait_for()
    page.get_by_text("Reload the page to see changes.").wait_for()
    page.get_by_role("button", name="Try pending deferrals now").click()
    page.get_by_text("Requested: drain.").wait_for()
    page.get_by_role("link", name="Roll back all users…").click()
    page.get_by_label("To").select_option("0.0.24")
    page.get_by_role("button", name="Show what will happen").click()
    page.get_by_role("button", name="Roll back 2 users").click()
    assert [
        (each["action"], each.get("version")) for each in sorted(host.requests(), key=lambda each: each["action"])
    ] == [
        ("drain", None),
        ("rollback", "0.0.24"),
    ]


def test_a_viewer_sees_no_buttons(host: PageHost, open_page: Callable[..., Page]) -> None:
    """In the browser as in the source, also after changes."""
    page = open_page(host, identity=VIEWER)
    page.get_by_text("This page is live.").wait_for()
    host.settings.paths.freeze_file.write_text("by hand\n")
    page.get_by_text("by hand").first.wait_for()
    assert page.get_by_role("button").count() == 0
    page.get_by_text("who may look and not act").wait_for()
