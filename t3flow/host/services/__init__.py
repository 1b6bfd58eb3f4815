"""The users' servers as units of systemd or of the sandbox's supervisor."""
