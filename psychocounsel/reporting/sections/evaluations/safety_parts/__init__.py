"""Parts of the section on safety."""
