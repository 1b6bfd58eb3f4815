"""Pairing through the dispatch: probes, witnesses, results, and the dispatch's log."""
