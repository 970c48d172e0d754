"""Parts of the sections on annotated datasets and on audits."""
