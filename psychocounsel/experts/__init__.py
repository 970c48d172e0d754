"""Ratings by human experts: items, the blind page, agreement, and the number of answers that a study needs."""
