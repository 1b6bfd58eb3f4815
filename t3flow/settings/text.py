"""Settings as text: for messages and `config show`, without passwords, and as a file for a new host."""

import json
import re
from pathlib import Path
from typing import Any, NamedTuple

from t3flow.settings.schema import Settings, declared, sections

HEAD = """\
# Settings of t3flow. To change a key, remove its leading #, run t3flow config check FILE, then: systemctl restart t3flow
# T3FLOW_SECTION__KEY in the consumer's environment overrides a key of this file.
"""

SECRET_KEYS = ("queue.url", "dispatch.url", "fleet.url")
"""Keys whose values may contain a password, on purpose or by mistake. Always shown masked."""

MESSAGE_KEYS = ("notify.ping_url", "notify.webhook_url", "notify.urls")
"""Keys whose URLs are secrets as a whole: only their scheme is shown, and the host of an HTTP URL."""

LONGEST_SHOWN = 80


class Setting(NamedTuple):
    """One setting in force. `value` is what JSON can carry, with secrets masked."""

    key: str
    value: str | int | float | bool | list[str]
    source: str


def describe(settings: Settings) -> list[Setting]:
    """Return every setting in force with its source, in the order of the file. Secrets are masked."""
    described = []
    for key in declared():
        section, _, name = key.partition(".")
        value = getattr(getattr(settings, section), name)
        value = str(value) if isinstance(value, Path) else value
        value = mask(value) if key in SECRET_KEYS else _without_urls(key, value)
        described.append(Setting(key, value, settings.sources[key]))
    return described


def commented() -> str:
    """Return a settings file with every key commented out: meaning, expected value, default. Valid TOML that sets nothing."""
    lines = [HEAD]
    for section, kind in sections().items():
        lines.append(f"[{section}]  # {(kind.__doc__ or '').strip()}")
        for name in kind._fields:
            setting = declared()[f"{section}.{name}"]
            lines += [f"# {setting.meaning}", f"# value: {setting.expected}"]
            lines += [f"#{name} = {literal(setting.default)}", ""]
    return "\n".join(lines)


def literal(value: str | int | float | bool | list[str] | Path) -> str:
    """Return a default as TOML."""
    return json.dumps(str(value) if isinstance(value, Path) else value, ensure_ascii=False)


def mask(url: str) -> str:
    """Return a URL with `***` in place of a password, also of one in the query.

    Masks other texts too: what precedes an `@` may be a misplaced password.
    """
    url = re.sub(r"(?is)([?&](?:sentinel_|ssl_)?password=)[^&#]*", r"\1***", url)
    return re.sub(
        r"(?is)\A([a-z][a-z0-9+.-]*://)?([^:@/]*:)?.*@", lambda found: f"{found[1] or ''}{found[2] or ''}***@", url
    )


def mask_message_url(url: str) -> str:
    """Return a URL that messages are sent to with `***` in place of all but its scheme, and its host if that is the name of a server.

    In a URL of Apprise the place of the host often has a token. A text that is no URL may be a misplaced token: it is masked as a whole.
    """
    host = r"[A-Za-z0-9.-]+(?::[0-9]+)?|\[[0-9A-Fa-f:.]+\](?::[0-9]+)?"
    if found := re.match(rf"(https?://)(?:[^/?#\s]*@)?({host})(?=[/?#][^@]*\Z|\Z)", url):
        return url if url == found[1] + found[2] else f"{found[1]}{found[2]}/***"
    found = re.match(r"[a-z][a-z0-9+]*://", url)
    return f"{found[0]}***" if found else "***" if url else ""


def _without_urls(key: str, value: Any) -> Any:
    """Return a key's value of any type with the URLs that messages are sent to masked."""
    if key not in MESSAGE_KEYS:
        return value
    if isinstance(value, list):
        return [_without_urls(key, each) for each in value]
    return mask_message_url(value) if isinstance(value, str) else "***" if isinstance(value, dict) else value


def shown_value(key: str, value: object) -> str:
    """Return a key's value for a message: one line, truncated, secrets masked."""
    try:
        text = json.dumps(_without_urls(key, value), default=str)
    except ValueError:
        text = "a number of thousands of digits"
    text = mask(text) if key in SECRET_KEYS else text
    return text if len(text) <= LONGEST_SHOWN else f"{text[:LONGEST_SHOWN]}…"


def shown_name(name: str) -> str:
    """Return a name of the file or environment for a message: quoted and on one line unless TOML allows it bare."""
    return name if re.fullmatch(rf"[A-Za-z0-9_-]{{1,{LONGEST_SHOWN}}}", name) else json.dumps(name[:LONGEST_SHOWN])
