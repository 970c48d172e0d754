"""Safety of single replies: a crisis set of speeches, a judge's questions about each reply, and figures of failures."""
