r"""Names of units: an account's name as the instance of a template unit.

Hosts use two forms. A unit with `User=%i` contains the plain name (`t3-serve@ada-lovelace.service`); one with `User=%I` contains it escaped
(`t3-serve@ada\x2dlovelace.service`), the only form for a name with characters that are not allowed in unit names.
"""

import re
import string

PLAIN = frozenset((string.ascii_letters + string.digits + ":_.").encode())
"""Bytes that systemd does not escape."""
_INSTANCE = re.compile(r"[A-Za-z0-9:_.\\@-]+")
MAX_UNIT_LENGTH = 255


def escape(text: str) -> str:
    r"""Escape a text as `systemd-escape` does: `/` becomes `-`; a byte that is not plain, or a leading dot, becomes `\xNN`."""
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
    r"""Reverse `escape`, as `systemd-escape --unescape` does. Return None for a stray backslash."""
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
    """Return the names that a user's unit may have, given the template with `{user}`: the plain form first, if it is a valid name."""
    forms = [user] if _INSTANCE.fullmatch(user) else []
    forms += [form for form in [escape(user)] if form not in forms]
    found = [template.format(user=form) for form in forms]
    return [unit for unit in found if len(unit) <= MAX_UNIT_LENGTH] or found[:1]


def accounts(template: str, unit: str) -> list[str]:
    """Return the account names that a unit of the template may belong to: the instance as it is, and unescaped."""
    before, _, after = template.partition("{user}")
    if not (unit.startswith(before) and unit.endswith(after) and len(unit) > len(before) + len(after)):
        return []
    instance = unit[len(before) : len(unit) - len(after)]
    plain = unescape(instance)
    return list(dict.fromkeys(name for name in (instance, plain) if name))
