"""Snapshots of users' sets, their restore, and the databases that a restore replaced."""
