"""Snapshots of users' databases, and databases that were replaced."""
