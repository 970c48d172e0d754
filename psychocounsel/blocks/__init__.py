"""Blocks: what evaluations and reports show, apart from how it is shown."""
