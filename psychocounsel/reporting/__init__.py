"""Folders of runs, sweeps, studies and evaluations to one page, tables and figures. No torch."""
