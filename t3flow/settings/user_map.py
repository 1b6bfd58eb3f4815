"""The user map: which person, by the name that the dispatch knows, works as which user of the host.

Lines are `authentik_name=os_user`. `#` starts a comment at the start of a line or after a space. CRLF is accepted.
An invalid line is reported and skipped, so that one typo does not block the updates of all users.
"""

import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

from t3flow import T3flowError

USER_NAME = re.compile(r"(?![0-9]+\Z)(?!.*\.\.)[A-Za-z0-9_][A-Za-z0-9_.@+\\-]{0,238}\$?", re.DOTALL)
"""Names of local, LDAP and domain accounts: ada, Ada.Lovelace, ada@corp.example, CORP\\ada, host$.

Each is safe as a path component and is never read as a command's option. Digits alone are excluded: tools read them as a uid.
"""

LONGEST_PERSON = 256
_PERSON = re.compile(r"[!-~\xa1-\xac\xae-\xff]+")  # what an HTTP header carries unchanged, without spaces
_COMMENT = re.compile(r"(?:^|\s)#.*")


class UserMapError(T3flowError):
    """The user map cannot be read."""


@dataclass(frozen=True)
class MappedUser:
    """A user of the host and the first person mapped to it; pairing is verified as that person."""

    name: str
    person: str


@dataclass(frozen=True)
class UserMap:
    """The content of a user map.

    `users`: in the order of the file, without duplicates. `problems`: one line per skipped line. `user_of`: the user of every accepted person.
    `refused`: possible account names in the skipped lines.
    """

    users: list[MappedUser] = field(default_factory=list)
    problems: list[str] = field(default_factory=list)
    user_of: dict[str, str] = field(default_factory=dict)
    refused: list[str] = field(default_factory=list)


def read_user_map(path: Path, *, lookup: Callable[[str], int | None] | None = None) -> UserMap:
    """Read a user map and return its users and problems.

    `lookup` returns the uid of an account, or None if the host has no such account. Without it, only the name `root` counts as root.
    Raise UserMapError if the file is missing, unreadable or not UTF-8.
    """
    try:
        text = path.read_bytes().decode("utf-8-sig")
    except OSError as error:
        raise UserMapError(f"{path}: cannot be read ({error.strerror}): create it with lines PERSON=USER") from error
    except UnicodeDecodeError as error:
        raise UserMapError(f"{path}: not UTF-8 (byte {error.start}): save it as UTF-8") from error

    found = UserMap()
    served: set[str] = set()
    refusals: dict[str, str | None] = {}
    for number, line in _lines(text):
        person, _, user = line.partition("=")
        problem = _line_problem(person, user, line)
        if problem is None:
            if user not in refusals:
                refusals[user] = _account_problem(user, lookup)
            problem = refusals[user]
        if problem is None and found.user_of.get(person, user) != user:
            problem = f"{person} already works as {found.user_of[person]}: remove one of the two lines"
        if problem is not None:
            found.problems.append(f"{path}: line {number}: {problem}")
            found.refused.extend(_names_in(line))
            continue
        found.user_of[person] = user
        if user not in served:
            served.add(user)
            found.users.append(MappedUser(name=user, person=person))
    return found


def _lines(text: str) -> Iterator[tuple[int, str]]:
    """Yield each line that is not blank or a comment, with its number from 1."""
    for number, line in enumerate(text.split("\n"), start=1):
        content = _COMMENT.sub("", line.removesuffix("\r")).strip(" \t")
        if content:
            yield number, content


def _line_problem(person: str, user: str, line: str) -> str | None:
    """Return what is wrong with the syntax of a line, or None."""
    if line.count("=") != 1:
        return f"{_shown(line)} has {line.count('=')} equals signs: write PERSON=USER"
    if len(person) > LONGEST_PERSON:
        return f"{_shown(person)} is longer than {LONGEST_PERSON} characters: expected the name of a person"
    if not _PERSON.fullmatch(person):
        return f"{_shown(person)} cannot name a person: expected printable Latin-1 characters without spaces"
    if not USER_NAME.fullmatch(user):
        return (
            f"{_shown(user)} cannot name a user of the host: expected at most 239 letters, digits and _ . - + @ \\, "
            "the first a letter, a digit or _"
        )
    return None


def _names_in(line: str) -> list[str]:
    """Return every text of a line that may be meant as an account: what follows an equals sign."""
    parts = line.split("=")
    tails = ["=".join(parts[at:]).strip() for at in range(1, len(parts))]
    return [tail for tail in dict.fromkeys([*tails, *(part.strip() for part in parts[1:])]) if tail]


def _account_problem(user: str, lookup: Callable[[str], int | None] | None) -> str | None:
    """Return why an account cannot be served, or None."""
    uid = 0 if user == "root" else lookup(user) if lookup else -1
    if uid is None:
        return f"the host has no user {user}: create the account or remove the line"
    if uid == 0:
        return f"{user} is root, which is never served: map the person to another account"
    return None


def _shown(text: str) -> str:
    """Return a text of the file for a message: on one line, truncated, without control characters."""
    return ascii(text) if len(text) <= 60 else f"{text[:60]!a}…"
