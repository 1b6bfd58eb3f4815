"""What t3flow records about the host beside its runs: facts and tables in the journal's file."""
