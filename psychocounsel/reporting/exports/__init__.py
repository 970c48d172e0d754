"""Files of a report for other programs and for readers of a paper: CSV, LaTeX, PDF, and what is needed to repeat the runs."""
