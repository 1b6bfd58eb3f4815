"""Cells: isolated namespaces for code from the registry."""
