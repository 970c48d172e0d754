"""Report parts for a terminal: small charts, and the table printed at the end of a sweep."""
