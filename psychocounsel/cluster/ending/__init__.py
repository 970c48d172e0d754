"""End of an attempt at a run: the error in its logs, its progress, and the decision about another attempt."""
