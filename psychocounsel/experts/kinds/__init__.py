"""Kinds of items: content of an item, its form, its answers, and the tables made from them."""
