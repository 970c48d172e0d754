"""How a study stands, for those who look after it."""
