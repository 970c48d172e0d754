"""Agreement of raters: the table of answers, coefficients of agreement, and disagreements to settle."""
