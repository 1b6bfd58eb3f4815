"""A devvm in a folder: what a host has around t3flow, small enough to start in a second. For the demo and the tests.

Its servers (registry, dispatch, supervisor) use little more than the standard library, so that they start fast.
"""
