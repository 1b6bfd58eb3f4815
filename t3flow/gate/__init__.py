"""The gate: whether a version may reach users, by trials on copies of their databases, each in a cell of its own."""
