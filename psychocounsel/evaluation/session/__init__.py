"""Safety of whole sessions: simulated clients talk with a counsellor, and every reply of the counsellor is judged."""
