"""Safety of whole sessions: simulated clients talk with a contestant, and judges rate each of the contestant's replies."""
