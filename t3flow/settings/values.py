"""Kinds of setting values: the type in force, the words for what is expected, and the check."""

from pathlib import Path
from typing import Annotated, NamedTuple

from t3flow.settings import checks
from t3flow.settings.checks import ACCOUNT, Check, between, each, matches, or_empty, zero_or_between

YEAR_SECONDS = 366 * 86400
"""No wait or timeout is longer."""

_CLOCK = r"(?:[01][0-9]|2[0-3]):[0-5][0-9]"
_HEADER = r"[A-Za-z0-9!#$%&'*+.^_`|~-]+"  # RFC 9110, 5.6.2
_NPM_NAME = r"(?=.{1,214}\Z)"


class Expected(NamedTuple):
    """What a key expects, in words that end "expected …", and the check of a value that has one of the key's TOML types."""

    words: str
    check: Check


AbsolutePath = Annotated[Path, Expected("an absolute path", checks.absolute_path)]
BaseDir = Annotated[
    str, Expected("an absolute path that begins with {home} or contains {user}", checks.base_dir_template)
]
UnitName = Annotated[str, Expected("the name of a .service unit that contains {user}", checks.unit_template)]
AccountName = Annotated[str, Expected("the name of an account other than root", matches(ACCOUNT))]
Seeds = Annotated[str | list[str], Expected('"all", "largest" or an array of users', checks.seeds)]
ProgramNames = Annotated[list[str], Expected("an array of program names without duplicates", each(matches("[^/ ]+")))]
Command = Annotated[
    str, Expected("the name of a command on PATH, or an absolute path", matches(r"(?! *\Z)(?:/.*|[^/]+)"))
]

PackageName = Annotated[
    str,
    Expected(
        "the name of an npm package",
        matches(rf"{_NPM_NAME}(?!(?:node_modules|favicon\.ico)\Z)(?:@[a-z0-9][a-z0-9._-]*/)?[a-z0-9][a-z0-9._-]*"),
    ),
]
Tag = Annotated[
    str,
    Expected(
        "a dist-tag such as nightly; an exact version belongs in track.pin",
        matches(rf"{_NPM_NAME}(?![xX](?:\.|\Z)|v+[0-9])[A-Za-z][A-Za-z0-9._-]*"),  # npm reads x and v1 as ranges
    ),
]
Pin = Annotated[str, Expected('an exact version, or "" to follow track.tag', or_empty(checks.version))]

DispatchUrl = Annotated[str, Expected("http://HOST:PORT or https://HOST:PORT", checks.dispatch_url)]
HeaderName = Annotated[str, Expected("the name of an HTTP header", matches(_HEADER))]
CookieName = Annotated[str, Expected('the name of a cookie, or ""', or_empty(matches(_HEADER)))]
Endpoints = Annotated[
    list[str],
    Expected(
        "an array of paths without duplicates, each beginning with /",
        each(matches(r'/(?!/)[!"$->@-~]*'), at_least=1),  # printable ASCII except space, ? and #
    ),
]
LogSource = Annotated[
    str,
    Expected('an absolute path, journal:UNIT for the log of a unit in journald, or "" for none', checks.log_source),
]
QueueUrl = Annotated[
    str,
    Expected(
        "sqlite:///FILE, redis://[:PASSWORD@]HOST[:PORT][/DATABASE], rediss://…, unix://[:PASSWORD@]/SOCKET "
        "or redis+sentinel://[:PASSWORD@]HOST[:PORT],…/SERVICE[/DATABASE]",
        checks.queue_url,
    ),
]

FleetUrl = Annotated[
    str,
    Expected(
        "redis://[USER:PASSWORD@]HOST[:PORT][/DATABASE], rediss://…, unix://[USER:PASSWORD@]/SOCKET, http://…, https://…, "
        'or ""',
        or_empty(checks.fleet_url),
    ),
]
_FLEET_NAME = r"[A-Za-z0-9][A-Za-z0-9._-]{0,62}"
FleetName = Annotated[str, Expected("up to 63 letters, digits, dots, dashes and underscores", matches(_FLEET_NAME))]
FleetNameOrNone = Annotated[
    str, Expected('up to 63 letters, digits, dots, dashes and underscores, or ""', or_empty(matches(_FLEET_NAME)))
]

Cron = Annotated[str, Expected("a cron expression of five fields", checks.cron)]
TimeOfDay = Annotated[str, Expected('HH:MM, or "" for no limit', or_empty(matches(_CLOCK)))]
Window = Annotated[
    str,
    Expected(
        'HH:MM-HH:MM with different ends, may span midnight, or "" for any time',
        or_empty(matches(rf"({_CLOCK})-(?!\1){_CLOCK}")),
    ),
]
Timezone = Annotated[
    str,
    Expected(
        "a time zone such as Europe/Vienna or CET-1CEST,M3.5.0,M10.5.0/3, "
        'or "" for TZ of the consumer, else /etc/localtime',
        or_empty(checks.timezone),
    ),
]

OCCASIONS = ("failed", "rolled_back", "frozen", "recovered", "updated")
"""What a message may be about."""

MessageUrl = Annotated[str, Expected('an http or https URL, or ""', or_empty(checks.message_url))]
AppriseUrls = Annotated[
    list[str],
    Expected("an array of up to 20 URLs without duplicates, such as slack://… or mailto://…", checks.apprise_urls),
]
Occasions = Annotated[list[str], Expected(f"an array of {', '.join(OCCASIONS)}", each(checks.one_of(OCCASIONS)))]
PathOrNone = Annotated[str, Expected('an absolute path that ends in .prom, or ""', or_empty(checks.textfile))]
Listen = Annotated[
    str,
    Expected('unix:///SOCKET, 127.0.0.1:PORT, [::1]:PORT, or "" for none', or_empty(checks.listen)),
]
Identities = Annotated[list[str], Expected("an array of names without duplicates", each(matches(r"\S(?:.*\S)?")))]

Count = Annotated[int, Expected("an integer from 1 to 1000000", between(1, 1_000_000))]
Port = Annotated[int, Expected("an integer from 1024 to 65535", between(1024, 65535))]
Timeout = Annotated[float, Expected("seconds, more than 0, up to a year", between(0.001, YEAR_SECONDS))]
TimeoutMinutes = Annotated[float, Expected("minutes, more than 0, up to a year", between(0.01, YEAR_SECONDS // 60))]
Seconds = Annotated[float, Expected("seconds from 0 to a year", between(0, YEAR_SECONDS))]
SecondsOfHour = Annotated[float, Expected("seconds from 0 to 3600", between(0, 3600))]
SecondsOfDay = Annotated[float, Expected("seconds from 0 to 86400", between(0, 86400))]
Minutes = Annotated[float, Expected("minutes from 0 to a year", between(0, YEAR_SECONDS // 60))]
Hours = Annotated[float, Expected("hours from 0 to a year", between(0, YEAR_SECONDS // 3600))]
Days = Annotated[float, Expected("days from 1 to 3650", between(1, 3650))]
DaysOrNever = Annotated[float, Expected("days from 0 to 3650", between(0, 3650))]
LongDaysOrNever = Annotated[float, Expected("days from 14 to 3650, or 0", zero_or_between(14, 3650))]
SomeHours = Annotated[float, Expected("hours, more than 0, up to a year", between(0.0001, YEAR_SECONDS // 3600))]
Slots = Annotated[int, Expected("an integer from 1 to 64", between(1, 64))]
Wave = Annotated[int, Expected("an integer from 0 to 99", between(0, 99))]
