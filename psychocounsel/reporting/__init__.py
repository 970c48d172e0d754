"""Reports: turns folders of runs, sweeps, studies and evaluations into one HTML page, tables and figures. Imports no torch."""
