"""Batches on their way to a device: made while the last one is computed on, copied without waiting."""
