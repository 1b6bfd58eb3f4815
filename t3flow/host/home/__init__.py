"""Work inside a home, as its owner: the parts of `host/home/program.py`. The standard library and `t3flow.t3` alone; never run by root as itself."""
