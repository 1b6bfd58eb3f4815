"""What a live page shows, in parts, and what changed between two of them.

A screen has parts (the content of an element, by its id) and rows (whole elements in a container, by the ids of both). The same screen makes the page
of a browser without JavaScript.
"""

import hashlib
import json
import re
from typing import NamedTuple

DISTANCE = re.compile(r'( data-at="[^"]*">)[^<]*')
"""How far away a time is, which browsers keep up by themselves: no change of the host."""


class Screen(NamedTuple):
    """The content of a page: id → HTML, and container's id → row's id → HTML."""

    parts: dict[str, str]
    rows: dict[str, dict[str, str]]

    @property
    def token(self) -> str:
        """A text that is equal for equal screens."""
        content = json.dumps([self.parts, self.rows])
        return hashlib.blake2b(_steady(content.replace('\\"', '"')).encode(), digest_size=9).hexdigest()


def changes(old: Screen | None, new: Screen) -> list[list[str]]:
    """Return what makes the old screen the new one: ["set", id, content], ["row", id, element] and ["add", container's id, element]."""
    found = []
    for part, html in new.parts.items():
        if old is None or _steady(old.parts.get(part, "")) != _steady(html):
            found.append(["set", part, html])
    for container, rows in new.rows.items():
        former = old.rows.get(container, {}) if old is not None else {}
        if old is None or list(rows)[: len(former)] != list(former):
            found.append(["set", container, "".join(rows.values())])
            continue
        for row, html in rows.items():
            if row not in former:
                found.append(["add", container, html])
            elif _steady(former[row]) != _steady(html):
                found.append(["row", row, html])
    return found


def _steady(html: str) -> str:
    return DISTANCE.sub(r"\1", html)
