"""What a report shows on a terminal: small charts, and the table at the end of a sweep."""
