"""Parts of the section on benchmarks of others."""
