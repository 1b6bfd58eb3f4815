"""The host's parts, each behind plain functions: accounts, databases, services, slots, npm, pairing, the gate. None knows of runs."""
