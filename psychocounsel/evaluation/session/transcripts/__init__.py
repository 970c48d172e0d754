"""Finished conversations from files, which are judged in place of sessions with simulated clients."""
