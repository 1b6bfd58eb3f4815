"""The state of the host as people and scripts see it. Changes nothing."""
