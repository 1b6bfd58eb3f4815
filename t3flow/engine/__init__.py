"""A small durable-workflow engine on Huey: a journal, replayed workflows, steps, signals, sagas, one lock. It knows nothing of hosts."""
