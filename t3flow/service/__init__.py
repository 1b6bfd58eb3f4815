"""The consumer as a service: its process and threads, its log, and its notifications to systemd."""
