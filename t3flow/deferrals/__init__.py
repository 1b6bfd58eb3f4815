"""Users whose restart is deferred: what each one waits for, and the drain that migrates them later."""
