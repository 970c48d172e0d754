"""Speeches of the crisis set in another dialect, of another gender or age: whether replies stay as urgent."""
