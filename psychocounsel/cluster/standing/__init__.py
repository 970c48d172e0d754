"""State of submitted runs: read from their own files and from the cluster, and shown as a table."""
