"""Costs and shortages of a submission, reported before it is made."""
