"""Studies: the stages of an experiment, read from a file and turned into ordered jobs and result tables.

A cell is one run of a stage: one combination of the values that the stage sweeps.
"""
