"""Clients that follow a script: what they say next depends on plain checks of the counsellor's last reply."""
