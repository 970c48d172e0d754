"""Parts of the section on win rates."""
