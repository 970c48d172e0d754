"""Feeding of batches to a device: a batch is built while the one before it is computed, and copied without waiting."""
