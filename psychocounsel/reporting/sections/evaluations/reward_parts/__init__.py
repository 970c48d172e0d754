"""Parts of the section on reward models."""
