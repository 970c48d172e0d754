"""State of a study, for `jobs` and `launch`."""
