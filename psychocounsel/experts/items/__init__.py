"""Items that experts judge: pairs and cases from finished folders, drawn by stratum and assigned to experts."""
