"""Parts of the sections on safety and sessions: the judges' figures of each contestant."""
