"""What a user may know of themselves: the document that the consumer writes into a file of theirs, and its words."""

import json
from typing import Any, cast

from t3flow.engine.journal import Journal
from t3flow.host import slots
from t3flow.host.records import actions, facts, wishes
from t3flow.settings.load import Settings
from t3flow.state.deferrals import in_words
from t3flow.state.documents import SCHEMA, Me, MyAnswer, MyWish
from t3flow.state.observed import last_observed
from t3flow.state.short import shortener
from t3flow.state.times import ahead, clock, epoch, rfc3339
from t3flow.state.users import frozen_document, users, version_or_none

REFUSED = "refused: "


def action_id(user: str, wish_id: str) -> str:
    """Return the id of the action that a wish is recorded as, which no other account's can have."""
    return f"me-{user}-{wish_id}"


def documents_of(read: Settings, journal: Journal) -> dict[str, Me]:
    """Return the document of each user of the host, from what the consumer last observed of the servers."""
    frozen = frozen_document(read, journal)
    default = version_or_none(lambda: slots.default_version(read.paths.versions_dir))
    planned = facts.read(journal, "next_bump") or {}
    asked = wishes.wishes(journal)
    found: dict[str, Me] = {}
    for user, each in users(read, journal, last_observed(journal)).items():
        wish = asked.get(user)
        found[user] = Me(
            schema=SCHEMA,
            user=user,
            running_version=each["running_version"],
            assigned_version=each["assigned_version"],
            default_version=default,
            active=each["active"],
            managed=each["managed"],
            frozen=frozen,
            held=each["held"],
            deferred=each["deferred"],
            wish=_wish(wish),
            answer=_answer(journal, user, wish),
            later_days=read.deferral.later_days,
            next_bump=rfc3339(planned.get("at")),
        )
    return found


def _wish(wish: wishes.Wish | None) -> MyWish | None:
    """Return a wish that is not over, as the document has it."""
    if wish is None or not wish.kind:
        return None
    return MyWish(kind=cast(Any, wish.kind), at=rfc3339(wish.at), until=rfc3339(wish.until))


def _answer(journal: Journal, user: str, wish: wishes.Wish | None) -> MyAnswer | None:
    """Return the consumer's answer to the last wish of a user."""
    found = actions.find(journal, action_id(user, wish.id)) if wish is not None else None
    if wish is None or found is None or found.result is None:
        return None
    return MyAnswer(id=wish.id, ok=not found.result.startswith(REFUSED), text=found.result.removeprefix(REFUSED))


def text(me: Me) -> str:
    """Return the document as the file has it."""
    return json.dumps(me, ensure_ascii=False)


def lines(me: Me) -> list[tuple[str, str]]:
    """Return what a user is told, each line with its label."""
    runs, led_to = me["running_version"], me["assigned_version"]
    server = (
        f"runs {runs or led_to}" if me["active"] else "is not running; the next start is on " + (led_to or "nothing")
    )
    found = [("Server", server if me["managed"] else f"{server}; t3flow does not manage it")]
    deferred = me["deferred"]
    if deferred:
        found.append(("Waits", f"the move to {deferred['target']}: {in_words(deferred)}"))
        found.append(("Next check", ahead(epoch(deferred["next_check"]))))
    else:
        found.append(("Waits", "nothing"))
    if held := me["held"]:
        until = f" until {_clock(held['until'])}" if held["until"] else ""
        found.append(("Held", f"by {held['by']}{until}{': ' if held['reason'] else ''}{held['reason']}"))
    if frozen := me["frozen"]:
        found.append(("Frozen", f"by {frozen['by']}: {frozen['reason']}"))
    if wish := me["wish"]:
        later = f"not before {_clock(wish['until'])}; t3flow me now or t3flow me later --cancel ends that"
        now = "as soon as no turn is running; t3flow me later --cancel ends that"
        found.append(("Your wish", now if wish["kind"] == wishes.NOW else later))
    elif deferred and not held and not frozen:
        found.append(("You can", "run t3flow me now, or t3flow me later"))
    return found


def hint(me: Me) -> str:
    """Return the line that a login may show: what waits and why; "" if nothing does."""
    deferred = me["deferred"]
    if deferred is None:
        return ""
    short = shortener([deferred["target"]])[deferred["target"]]
    choice = "" if me["wish"] or me["held"] or me["frozen"] else "; see t3flow me"
    line = f"t3: your server moves to {short} later: {in_words(deferred)}{choice}"
    return "".join(letter if letter.isprintable() else "?" for letter in line)[:300]


def _clock(text: str | None) -> str:
    """Return a time of a document as a local time."""
    moment = epoch(text)
    return clock(moment) if moment is not None else "-"
