"""A complete host in a folder that starts in a second, for the demo and the tests.

The registry, dispatch and supervisor import little beyond the standard library to start fast.
"""
