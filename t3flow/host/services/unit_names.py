r"""Names of units: how an account's name stands in the instance of a template unit, as systemd writes it.

Hosts use two forms. A unit with `User=%i` has the name as it is (`t3-serve@ada-lovelace.service`); one with `User=%I` has it escaped
(`t3-serve@ada\x2dlovelace.service`), which is also the only form for a name with letters that no unit may have.
"""

import re
import string

PLAIN = frozenset((string.ascii_letters + string.digits + ":_.").encode())
"""Bytes that systemd leaves as they are when it escapes."""
_INSTANCE = re.compile(r"[A-Za-z0-9:_.\\@-]+")
LONGEST_UNIT = 255


def escape(text: str) -> str:
    r"""Return the text as `systemd-escape` does: `/` as `-`, every byte that is not plain, and a leading dot, as `\xNN`."""
    escaped = []
    for at, byte in enumerate(text.encode(errors="surrogateescape")):
        if byte == ord("/"):
            escaped.append("-")
        elif byte not in PLAIN or (at == 0 and byte == ord(".")):
            escaped.append(f"\\x{byte:02x}")
        else:
            escaped.append(chr(byte))
    return "".join(escaped)


def unescape(text: str) -> str | None:
    r"""Return what `escape` made this of, as `systemd-escape --unescape` does; None for a stray backslash."""
    found = bytearray()
    at = 0
    while at < len(text):
        if text[at] == "\\":
            if not re.fullmatch(r"x[0-9a-fA-F]{2}", text[at + 1 : at + 4]):
                return None
            found.append(int(text[at + 2 : at + 4], 16))
            at += 4
        else:
            found += b"/" if text[at] == "-" else text[at].encode(errors="surrogateescape")
            at += 1
    return found.decode(errors="surrogateescape")


def units(template: str, user: str) -> list[str]:
    """Return the units that may be a user's, by the template with `{user}` in it: the plain form first, if a unit can have it."""
    forms = [user] if _INSTANCE.fullmatch(user) else []
    forms += [form for form in [escape(user)] if form not in forms]
    found = [template.format(user=form) for form in forms]
    return [unit for unit in found if len(unit) <= LONGEST_UNIT] or found[:1]


def accounts(template: str, unit: str) -> list[str]:
    """Return the names of accounts that a unit of the template may be for: the instance as it stands, and unescaped."""
    before, _, after = template.partition("{user}")
    if not (unit.startswith(before) and unit.endswith(after) and len(unit) > len(before) + len(after)):
        return []
    instance = unit[len(before) : len(unit) - len(after)]
    plain = unescape(instance)
    return list(dict.fromkeys(name for name in (instance, plain) if name))
