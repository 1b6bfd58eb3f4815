"""The templates, and how times, versions and commands look in them. Every value is escaped."""

import hashlib
import re
import time
from datetime import datetime
from functools import lru_cache
from pathlib import Path
from typing import Any

from jinja2 import Environment, FileSystemLoader, StrictUndefined
from markupsafe import Markup, escape

from t3flow import __version__
from t3flow.state.short import short_backup, short_id, shortened
from t3flow.state.times import ago, duration, soon

HERE = Path(__file__).parent
COMMAND = re.compile(r"(?:sudo )?(?:t3flow|systemctl|chmod|chown|journalctl|npm|apt) .*", re.DOTALL)
"""The command at the end of a remedy."""


@lru_cache
def environment() -> Environment:
    """Return the environment of the templates."""
    made = Environment(
        loader=FileSystemLoader(HERE / "templates"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        auto_reload=False,
    )
    made.filters |= {
        "when": when,
        "version": version,
        "short_id": short_id,
        "short_backup": short_backup,
        "shortened": shortened,
        "without": lambda text, start: text.removeprefix(f"{start} "),
        "argument": argument,
        "remedy": remedy,
        "duration": duration,
        "megabytes": megabytes,
    }
    made.globals |= {"release": __version__, "asset": asset}
    return made


def render(template: str, **values: Any) -> str:
    """Return a template with these values."""
    return environment().get_template(template).render(values)


def when(moment: float | str | None) -> Markup:
    """Return a time (epoch seconds, or RFC 3339) with its distance from now, its zone, and the full form as a title."""
    if moment is None or moment == "":
        return Markup("–")
    at = (
        datetime.fromisoformat(moment).astimezone()
        if isinstance(moment, str)
        else datetime.fromtimestamp(moment).astimezone()
    )
    epoch = at.timestamp()
    distance = soon(epoch) if epoch > time.time() else ago(epoch)
    form = (
        "%H:%M"
        if at.date() == datetime.now().date()
        else "%a %d %b %H:%M"
        if at.year == datetime.now().year
        else "%Y-%m-%d %H:%M"
    )
    return Markup('<time datetime="{}" title="{}"><span data-at="{:.0f}">{}</span>, {}</time>').format(
        at.isoformat(timespec="seconds"), f"{at:%A %Y-%m-%d %H:%M:%S %Z}", epoch, distance, f"{at:{form} %Z}"
    )


def version(text: str | None) -> Markup:
    """Return a version in its short form, with the full one as a title."""
    if not text:
        return Markup("–")
    short = shortened(text)
    if short == text:
        return Markup("<code>{}</code>").format(text)
    return Markup('<code title="{}">{}</code>').format(text, short)


def remedy(text: str) -> Markup:
    """Return what to do, with the command at its end to be copied as a whole."""
    found = COMMAND.search(text)
    if found is None or (found.start() > 0 and text[found.start() - 1] not in " :"):
        return escape(text)
    return Markup('{}<kbd class="command">{}</kbd>').format(text[: found.start()], found[0])


def argument(value: object, name: str) -> str:
    """Return an argument of an action, for people: a list as its words, a switch as its name."""
    if isinstance(value, list):
        return ", ".join(map(str, value))
    return name.replace("_", " ") if value is True else str(value)


def megabytes(size: int | None) -> str:
    """Return a size for people; a dash for one that this account may not see."""
    return "–" if size is None else f"{size / 1e6:.1f} MB"


@lru_cache
def assets() -> dict[str, tuple[bytes, str]]:
    """Return name → (content, kind) of the files that pages use."""
    kinds = {".css": "text/css; charset=utf-8", ".js": "text/javascript; charset=utf-8", ".svg": "image/svg+xml"}
    return {
        path.name: (path.read_bytes(), kinds[path.suffix])
        for path in sorted((HERE / "assets").iterdir())
        if path.suffix in kinds
    }


@lru_cache
def asset(name: str) -> str:
    """Return the address of a file, which changes with its content."""
    return f"/assets/{name}?{hashlib.blake2b(assets()[name][0], digest_size=6).hexdigest()}"
