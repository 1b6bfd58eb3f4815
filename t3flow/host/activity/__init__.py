"""What is at work on a user's state: whether the server is idle, and which processes use its databases."""
