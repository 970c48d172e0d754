"""The size of a micro-batch: memory per token, measured once and kept in the cache, and the choice that follows from it."""
