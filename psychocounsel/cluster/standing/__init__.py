"""How submitted runs stand: their own files, what the cluster says, and a table of both."""
