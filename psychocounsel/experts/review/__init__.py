"""State of a review: its plan, the experts' progress and answers, exposure limits and reports."""
