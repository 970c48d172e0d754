"""A review: its plan, who sees what, what experts answered, and how they are protected."""
