"""Work in a home, as its owner: `host/home/program.py` as a child process, and its answers, which are checked before anything uses them."""
