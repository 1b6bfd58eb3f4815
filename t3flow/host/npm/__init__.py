"""The npm client, and everything that comes from the registry."""
