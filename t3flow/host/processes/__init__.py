"""Processes, ports and control groups, as the kernel describes them."""
