"""Studies: the stages of a whole experiment, from a file to jobs, their order and their results."""
