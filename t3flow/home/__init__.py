"""Work inside a home, as its owner: the parts of `host/owner.py`. The standard library and `t3flow.t3` alone; never run by root as itself."""
