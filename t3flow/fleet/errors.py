"""What can go wrong with the fleet. Each error means "not now" for a bump that waits for its turn."""

from t3flow import T3flowError


class FleetError(T3flowError):
    """The fleet cannot be used as it is set up on this host. The text says why, and what to do."""


class FleetUnreachable(FleetError):
    """The fleet did not answer, or not as expected."""


class BadRecord(ValueError):
    """A record that is forged, malformed, or too large. The text says what is wrong with it."""
