"""Parts of the section on external benchmarks."""
