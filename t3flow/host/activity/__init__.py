"""Activity on a user's state: idleness of the server, and the processes that use the databases."""
