"""Kinds of items: what an item shows, which answers it takes, and which tables they become."""
