"""Parts of the sections on safety and on sessions: what judges found of each contestant."""
