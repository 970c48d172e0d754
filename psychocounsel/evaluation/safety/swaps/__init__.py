"""Variants of crisis speeches with another dialect, gender or age, to test if replies keep the same urgency."""
