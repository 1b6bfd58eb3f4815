"""t3flow: follow a nightly build on a shared host without ever waking up to an outage."""

__version__ = "0.1.0"
