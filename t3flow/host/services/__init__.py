"""Control of the users' servers: systemd, or the supervisor of the sandbox."""
