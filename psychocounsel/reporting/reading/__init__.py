"""Readers that turn run directories, sweeps and studies on disk into `Material`."""
