"""Choice of the size of a micro-batch, from the memory per token, which is measured once and kept in the cache."""
