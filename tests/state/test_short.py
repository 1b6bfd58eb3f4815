"""Short forms: unique where they are used, and whatever is no nightly stays whole."""

from t3flow.state.short import short_backup, short_id, shortened, shortener

ONE, TWO, SAME = "0.0.25-nightly.20260611.503", "0.0.25-nightly.20260612.504", "0.0.26-nightly.20260611.503"


def test_versions_are_short_where_that_tells_them_apart() -> None:
    assert shortener([ONE, TWO, "0.0.24", None]) == {ONE: "…20260611.503", TWO: "…20260612.504", "0.0.24": "0.0.24"}
    assert shortener([ONE, SAME, TWO]) == {ONE: ONE, SAME: SAME, TWO: "…20260612.504"}
    assert shortened(f"{ONE} failed at ada, 0.0.24 did not") == "…20260611.503 failed at ada, 0.0.24 did not"


def test_runs_and_backups() -> None:
    assert short_id("bump-20260609T041500-1fb35f") == "bump-1fb35f"
    assert short_id("drain_now-20260609T041500-1fb35f") == "drain_now-1fb35f"
    assert short_id("revive-of-bump-20260609T041500-1fb35f-ada") == "revive-of-bump-20260609T041500-1fb35f-ada"
    assert short_backup(f"state-prebump-{ONE}-20261126T074802693326Z.sqlite") == "20261126T074802693326Z"
    assert short_backup("replaced-20260609T041500Z") == "replaced-20260609T041500Z"
