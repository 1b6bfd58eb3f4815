"""Versions of t3, parsed and ordered as npm's `semver` does.

`packaging` does not read SemVer: it rejects `0.0.25-nightly.20260608.497` and orders prereleases differently. Both agree on the release numbers, so
that part is a `packaging.version.Version`. Identifiers after the hyphen are compared by SemVer 2.0.0, clause 11, with npm's limits.
"""

import re
from functools import total_ordering

from packaging.version import Version as Release

from t3flow import T3flowError

LONGEST_VERSION = 255
"""Characters. npm takes 256, but a version names a folder, and file systems stop at 255."""

LARGEST_NUMBER = 2**53 - 1
"""npm refuses a release number above JavaScript's MAX_SAFE_INTEGER and compares identifiers as floats."""

_NUMBER = r"(?:0|[1-9][0-9]*)"
_IDENTIFIER = rf"(?:[0-9]*[A-Za-z-][0-9A-Za-z-]*|{_NUMBER})"
_VERSION = re.compile(rf"({_NUMBER}\.{_NUMBER}\.{_NUMBER})(?:-({_IDENTIFIER}(?:\.{_IDENTIFIER})*))?")
_RELEASE_OF_ANY_FORM = re.compile(r"[0-9]+\.[0-9]+\.[0-9]+(?![0-9])")


class InvalidVersion(T3flowError):
    """A text that is not a version. The message names the text, the problem, and what is expected."""


@total_ordering
class Version:
    """One version. It sorts as npm sorts it, and `str()` returns the original text.

    Equality is npm's: different texts are equal only if they differ in a numeric identifier above `LARGEST_NUMBER`, where npm loses digits.
    """

    __slots__ = ("_identifiers", "_release", "_text")

    def __init__(self, text: str) -> None:
        """Parse a version. Raises InvalidVersion."""
        match = _VERSION.fullmatch(text) if len(text) <= LONGEST_VERSION else None
        if match is None or any(int(number) > LARGEST_NUMBER for number in match[1].split(".")):
            raise InvalidVersion(_refusal(text))
        self._text = text
        self._release = Release(match[1])
        self._identifiers = tuple(match[2].split(".")) if match[2] else ()

    def is_nightly(self, tag: str = "nightly") -> bool:
        """Return whether this is a build of the channel `tag`, as in `-nightly.20260608`."""
        return f"-{tag}." in self._text

    @property
    def is_prerelease(self) -> bool:
        """Return whether the version has a prerelease part."""
        return bool(self._identifiers)

    def __str__(self) -> str:
        return self._text

    def __repr__(self) -> str:
        return f"Version({self._text!r})"

    def __hash__(self) -> int:
        # Equal versions must hash alike, and npm looks no further than a pair of numbers that lost digits:
        # only the first identifier may count.
        return hash((self._release, _comparable(self._identifiers[0]) if self._identifiers else None))

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, Version):
            return NotImplemented
        return compare(self, other) == 0

    def __lt__(self, other: object) -> bool:
        if not isinstance(other, Version):
            return NotImplemented
        return compare(self, other) < 0


def parse(text: str) -> Version:
    """Return the exact text of a version as a Version. Raises InvalidVersion.

    Stricter than npm where npm would rewrite the text, because the text names a folder and goes back to npm: no leading `v`, no surrounding
    spaces, no build metadata (`+…`, which the registry strips).
    """
    return Version(text)


def compare(one: Version, other: Version) -> int:
    """Return -1, 0, or 1 if `one` is older than, equal to, or newer than `other`, as npm's `semver.compare` does."""
    if one._release != other._release:
        return -1 if one._release < other._release else 1
    if not one._identifiers or not other._identifiers:
        return bool(other._identifiers) - bool(one._identifiers)
    for mine, theirs in zip(one._identifiers, other._identifiers, strict=False):
        if mine != theirs:
            left, right = _comparable(mine), _comparable(theirs)
            return (left > right) - (left < right)
    return (len(one._identifiers) > len(other._identifiers)) - (len(one._identifiers) < len(other._identifiers))


def is_older(text: str, other: str) -> bool:
    """Return whether a version is older than another; False if either text is not a version, such as the name of a reserved link."""
    try:
        return parse(text) < parse(other)
    except InvalidVersion:
        return False


def _comparable(identifier: str) -> tuple[bool, float, str]:
    """Return the sort key of an identifier: numbers below words and by value, as npm's floats; words by their characters."""
    return (False, float(identifier), "") if identifier.isdigit() else (True, 0.0, identifier)


def _refusal(text: str) -> str:
    shown = ascii(text) if len(text) <= 60 else f"{text[:60]!a}… ({len(text)} characters)"
    return (
        f"{shown} is not a version{_reason(text)}: "
        "expected MAJOR.MINOR.PATCH or MAJOR.MINOR.PATCH-PRERELEASE, such as 0.0.25-nightly.20260608.497"
    )


def _reason(text: str) -> str:
    if len(text) > LONGEST_VERSION:
        return f" (longer than {LONGEST_VERSION} characters)"
    if text != text.strip():
        return " (spaces around it)"
    if re.fullmatch(r"[A-Za-z][A-Za-z_-]*", text):
        return " (dist-tags are set as the tag, not as a version)"
    if re.match(r"[v=]+[0-9]", text):
        return f" (no {text[0]!r} in front)"
    if "+" in text:
        return " (build metadata is not part of a published version)"
    if re.search(r"(?:^|[.-])0[0-9]+(?:[.-]|$)", text):
        return " (leading zeros)"
    if any(int(number) > LARGEST_NUMBER for number in re.findall(r"[0-9]+", text)) and _RELEASE_OF_ANY_FORM.match(text):
        return f" (a number above {LARGEST_NUMBER})"
    return ""
