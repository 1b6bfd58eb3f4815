"""usage: page_pictures.py: draws docs/page-*.png in Chromium, from a real sandbox with a deferral, a rollback, and a run in progress."""

import subprocess
import sys
import tempfile
from pathlib import Path

from playwright.sync_api import Browser, sync_playwright

from t3flow.sandbox.enter import enter
from t3flow.sandbox.host import Sandbox

TOP = Path(__file__).parent.parent
sys.path.insert(0, str(TOP / "tests/web"))
USERS = ["ada", "edsger", "grace", "linus", "margaret"]
ADMIN = "linus@example.test"
FIRST, GOOD, BAD, LATER = ("0.0.24", *(f"0.0.25-nightly.202606{day:02}.{day + 492}" for day in (9, 10, 11)))
LEVEL = {"schema_level": 30}
BREAKS_PAIRING = {"fault": "pairing_500", "when": {"not_scratch": True}}


def main() -> None:
    """Play, and draw."""
    folder = Path(tempfile.mkdtemp(prefix="t3p-", dir="/tmp"))
    extra = f'[web]\nlisten = "unix://{folder}/web.sock"\nadmins = ["{ADMIN}"]\n'
    box = Sandbox(folder, USERS, extra=extra)
    box.config.write_text(box.config.read_text().replace("[schedule]", '[schedule]\ntimezone = "Europe/Vienna"', 1))
    try:
        play(box)
    finally:
        box.close()
        subprocess.run(["rm", "-rf", str(folder)], check=False)


def play(box: Sandbox) -> None:
    """Bring the host into the state of the pictures: grace is deferred, a bad nightly was rolled back, and a dry run is in its gate."""
    from proxy import Proxy

    box.start(FIRST, dict.fromkeys(USERS, TOP / "tests/data/state-level30.sqlite"), LEVEL)
    box.start_consumer()
    box.control("grace", "turn/start", agent="claude")
    box.publish(GOOD, LEVEL)
    assert box.document("enqueue", "bump", "--wait")["outcome"] == "updated"
    box.publish(BAD, {**LEVEL, "rules": [BREAKS_PAIRING]})
    bad = box.document("enqueue", "bump", "--wait", timeout_seconds=300)
    assert bad["outcome"] == "rolled_back", bad
    page = subprocess.Popen([sys.executable, "-m", "t3flow", "web"], env=box.environment, cwd=box.top)
    box.until((box.top / "web.sock").exists, "the page is served")
    proxy = Proxy(box.top / "web.sock", ADMIN)
    try:
        with sync_playwright() as playwright:
            browser = playwright.chromium.launch(executable_path="/usr/bin/chromium", args=["--no-sandbox"])
            draw(browser, proxy.url, box, bad["run"])
            browser.close()
    finally:
        proxy.close()
        page.terminate()
        page.wait()


def draw(browser: Browser, url: str, box: Sandbox, bad: str) -> None:
    """Draw each picture."""
    picture(browser, f"{url}/runs/{bad}", "run", 1200, 900)
    picture(browser, f"{url}/actions/rollback", "confirm", 1200, 0)
    box.publish(LATER, LEVEL)
    box.document("enqueue", "bump", "--dry-run", "--target", LATER)
    picture(browser, url, "status", 1200, 1130, wait_for="Gate: ")
    picture(browser, url, "phone", 320, 1250)


def picture(browser: Browser, address: str, name: str, width: int, height: int, wait_for: str = "") -> None:
    """Draw one page, of this height or as a whole."""
    context = browser.new_context(viewport={"width": width, "height": height or 800}, color_scheme="light")
    page = context.new_page()
    page.goto(address)
    if wait_for:
        page.get_by_text(wait_for).first.wait_for(timeout=60_000)
    page.screenshot(path=target(name), full_page=not height)
    context.close()


def target(name: str) -> str:
    """Return where a picture goes."""
    return str(Path(sys.argv[1] if len(sys.argv) > 1 else TOP / "docs") / f"page-{name}.png")


if __name__ == "__main__":
    enter([sys.executable, *sys.argv])
    main()
