"""The gate: whether a model may go on, by its safety, sessions and health, with flags and passes adjudicated by people."""
