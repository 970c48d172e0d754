"""Scorers of the tasks for Inspect (extra `inspect`): their figures are those of our own evaluations."""
