"""The agreement lab: the table of answers, the figures of agreement, disagreements to settle, and the planner."""
