"""Taking over a host from the earlier shell tracker, and giving it back."""
