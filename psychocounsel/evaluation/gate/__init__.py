"""`evaluation=gate`: safety, sessions and health of a model against its base, adjudication, and a decision with an exit code."""
