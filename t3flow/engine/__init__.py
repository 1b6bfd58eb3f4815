"""A small durable-workflow engine on Huey: a journal, replayed workflows, steps, signals, sagas, and one lease. It knows nothing of hosts or t3.

Read `step`, then `flow`, then `engine`. The journal is the truth; the queue only delivers hints to look at a run.
"""
