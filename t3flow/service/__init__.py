"""The consumer as a service: its process, its log, and what it tells systemd."""
