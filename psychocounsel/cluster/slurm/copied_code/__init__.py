"""Copies of the code that jobs run, and the folder in which sweeps share them."""
