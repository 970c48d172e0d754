"""Exports of a report: CSV, LaTeX tables, PDF figures, and a page on how to reproduce the runs."""
