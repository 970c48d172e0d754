"""Simulated clients that a language model plays: from cards of our own, and from files of public sets."""
