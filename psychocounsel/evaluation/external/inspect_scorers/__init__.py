"""Scorers of the Inspect tasks (extra `inspect`); they compute the same figures as our own evaluations."""
