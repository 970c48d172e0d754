"""Studies: the stages of an experiment, read from a file and turned into ordered jobs and result tables."""
