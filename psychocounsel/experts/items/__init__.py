"""What experts judge: pairs of replies from finished folders, drawn in strata and shared out among experts."""
