"""Feeding of batches to a device: the next batch is built during the computation of the last and copied without waiting."""
