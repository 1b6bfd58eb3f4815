"""Several hosts that take a version one after the other: records, signatures, slots, and the turn of this host."""
