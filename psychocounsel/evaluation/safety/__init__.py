"""Safety of single replies: a set of speeches at risk, questions about each reply, and what was missed or overdone."""
