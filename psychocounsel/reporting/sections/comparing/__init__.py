"""Comparisons that several sections share: settings, the metric they are compared by, significance, and held-out data."""
