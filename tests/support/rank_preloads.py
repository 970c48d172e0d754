"""Module that the process which forks ranks imports after what it imports in production."""

from tests.support.preloads import load_for_ranks

load_for_ranks()
