"""The host's parts, each behind plain functions: accounts, children, databases, services, slots, npm, pairing, the gate. No part knows the engine's runs."""
