"""Processes, ports and control groups, as the kernel reports them."""
