"""Copies of the code for jobs, and the folder in which sweeps share them."""
