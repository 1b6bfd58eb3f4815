"""Metrics for Prometheus: one collector that reads the state of the host when asked, and the ways in which the consumer publishes it."""
