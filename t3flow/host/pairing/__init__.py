"""Pairing through the dispatch: probes, their results, the dispatch's log, and the causes of failures."""
