"""What runs inside a cell, the small closed world of a candidate: programs of the standard library only, never as root once they run its code."""
