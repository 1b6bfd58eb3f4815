"""The program that works in a home as its owner, in parts: the standard library and `t3flow.t3` alone, and never run as root."""
