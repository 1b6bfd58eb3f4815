"""The read model of the host: what every view of it shows, and the words for it. Imports no entry point."""
