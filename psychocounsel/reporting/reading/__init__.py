"""Folders to `Material`: run directories, sweeps and studies as they are found on disk."""
