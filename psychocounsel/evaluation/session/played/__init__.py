"""Simulated clients played by a language model: from cards in our own format, and from files of public sets."""
