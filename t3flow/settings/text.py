"""The settings file as a new host gets it: every key, what it means and takes, and its default, commented out."""

import json
from pathlib import Path

from t3flow.settings.schema import declared, sections

HEAD = """\
# Settings of t3flow. Take the # away before a key to change it; t3flow config check FILE says what is wrong.
# They act once the consumer was restarted: systemctl restart t3flow. Any key also as T3FLOW_SECTION__KEY in its environment.
"""


def commented() -> str:
    """The text: valid TOML that sets nothing."""
    lines = [HEAD]
    for section, kind in sections().items():
        lines.append(f"[{section}]  # {(kind.__doc__ or '').strip()}")
        for name in kind._fields:
            setting = declared()[f"{section}.{name}"]
            lines += [f"# {setting.meaning}; takes {setting.takes}", f"#{name} = {literal(setting.default)}"]
        lines.append("")
    return "\n".join(lines)


def literal(value: str | int | float | bool | list[str] | Path) -> str:
    """A default as TOML writes it."""
    return json.dumps(str(value) if isinstance(value, Path) else value, ensure_ascii=False)
