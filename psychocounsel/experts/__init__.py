"""Ratings by people: how far they agree, and how many answers a study needs."""
