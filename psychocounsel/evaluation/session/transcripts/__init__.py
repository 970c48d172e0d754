"""Finished conversations from files, to be judged instead of sessions with simulated clients."""
