"""usage: settings_page.py > docs/settings.md: writes the page about the settings from the code that reads them."""

from t3flow.settings.load import DEFAULT_FILE, FILE_VARIABLE, OLD_VARIABLES
from t3flow.settings.schema import declared, sections
from t3flow.settings.text import literal

HEAD = f"""\
# Settings

One TOML file, `{DEFAULT_FILE}`, or the one that `--config` or `{FILE_VARIABLE}` names. Only the first may be missing: then every key has its default.

- What is wrong in it is said all at once, each with the file, the key and what it takes, and nothing runs on half of it: `t3flow config check FILE`.
  An unknown section or key is wrong too.
- What acts are the consumer's settings, as it read them when it started: after a change, `systemctl restart t3flow`. A run under way goes on.
- `t3flow config show` prints every key in force, with where it came from.
- Any key can be set in the consumer's environment, which is stronger than the file: `T3FLOW_SECTION__KEY`, such as `T3FLOW_GATE__PORT=3801`.
  Texts are taken as they are, all else as TOML writes it: `T3FLOW_SERVE__AGENT_PROCESSES='["claude", "codex"]'`.
- The variables of the shell tracker are honoured: {{old}}. A `T3FLOW_…` for the same key is stronger; an empty one counts as not set.
- A version is held by the first of these that there is: the consumer's environment, `t3flow pin VERSION`, `track.pin` in the file.
- Passwords in `queue.url` are shown as `***` everywhere. A file that holds one should be root's alone: `chmod 600 {DEFAULT_FILE}`.

Names that end in `_s` or `_seconds` are seconds, `minutes` and `hours` what they say.
This page is written by `tools/settings_page.py`.
"""


def page() -> str:
    """The page: each section, its keys with default, meaning and what they take."""
    old = ", ".join(f"`{variable}` (`{key}`)" for variable, key in OLD_VARIABLES.items())
    lines = [HEAD.replace("{old}", old)]
    for section, kind in sections().items():
        lines += [f"## [{section}]", "", (kind.__doc__ or "").strip(), ""]
        lines += ["| key | default | what it means | what it takes |", "|---|---|---|---|"]
        for name in kind._fields:
            setting = declared()[f"{section}.{name}"]
            cells = [f"`{name}`", f"`{literal(setting.default)}`", setting.meaning, setting.takes]
            lines.append("| " + " | ".join(cell.replace("|", "\\|") for cell in cells) + " |")
        lines.append("")
    return "\n".join(lines).rstrip() + "\n"


if __name__ == "__main__":
    print(page(), end="")
