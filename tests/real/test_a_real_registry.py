"""verdaccio in place of the sandbox's registry: npm publishes to it, and t3flow's npm reads it without a token."""

from collections.abc import Callable

import pytest
from playing import LEVEL32, LONG_SECONDS, all_is_well, patient, rows
from scenes import bump, results
from verdaccio import NOT_FETCHED, Verdaccio, cached

from t3flow.sandbox import real
from t3flow.sandbox.host import Sandbox
from t3flow.sandbox.packages import PACKAGE, pack_release

BEFORE, LATER = "0.0.33", "0.0.43-nightly.20260920.601"
ABSENT = "0.0.44-nightly.20260921.602"
USERS = ["ada"]

pytestmark = pytest.mark.skipif(cached() is None, reason=NOT_FETCHED)


@pytest.mark.timeout(1800)
def test_bumps_from_it(make_box: Callable[..., Sandbox]) -> None:
    """A missing tag and version, a release whose platform package comes later, and a dist-tag that moves."""
    box = patient(make_box, USERS)
    registry = Verdaccio(box)
    packed = box.top / "registry/packed"
    for part in pack_release(BEFORE, packed, {"schema_level": 32}):
        registry.publish(part)
    box.copy_databases(dict.fromkeys(USERS, LEVEL32))
    box.install(BEFORE)
    box.start_servers()
    box.start_consumer()
    had = {user: rows(box, user) for user in USERS}

    # Only publishing needs a token.
    assert registry.npm("view", f"{PACKAGE}@{BEFORE}", "version", signed_in=False).stdout.strip() == BEFORE
    refused = registry.npm("dist-tag", "add", f"{PACKAGE}@{BEFORE}", "nightly", signed_in=False)
    assert refused.returncode != 0, refused

    # A missing tag and a missing version.
    assert "no dist-tag nightly of t3" in bump(box)["reason"]
    assert f"no t3@{ABSENT}" in bump(box, "--target", ABSENT)["reason"]

    # The launcher is published before its platform package: npm silently skips an optional dependency, t3flow does not.
    registry.publish(real.pack_launcher(packed))
    early = bump(box, "--target", real.VERSION)
    assert (early["outcome"], box.document("status")["rejected"]) == ("incomplete_release", {}), early
    all_is_well(box, dict.fromkeys(USERS, BEFORE))
    platform_part = real.cached()
    assert platform_part is not None
    registry.publish(platform_part)
    done = bump(box, "--target", real.VERSION, timeout_seconds=LONG_SECONDS)
    assert (done["outcome"], results(done)) == ("updated", dict.fromkeys(USERS, "restarted")), done
    all_is_well(box, dict.fromkeys(USERS, real.VERSION))
    assert {user: rows(box, user) for user in USERS} == had

    # t3flow follows a moved dist-tag.
    for part in pack_release(LATER, packed, generation="C"):
        registry.publish(part, tag="next")
    registry.set_tag(LATER, "nightly")
    moved = bump(box, timeout_seconds=LONG_SECONDS)
    assert (moved["outcome"], moved["target"]) == ("updated", LATER), moved
    all_is_well(box, dict.fromkeys(USERS, LATER))
    assert bump(box)["outcome"] == "up_to_date"

    # All packages came from verdaccio, and t3flow sent no token.
    answered = registry.requests()
    for tarball in (
        f"/t3/-/t3-{real.VERSION}.tgz",
        f"/{real.PACKAGE}/-/{real.PACKAGE.partition('/')[2]}-{real.VERSION}.tgz",
    ):
        assert ("GET", tarball, 200) in answered, answered
    assert {status for method, _, status in answered if method == "GET"} <= {200, 304, 404}, answered
