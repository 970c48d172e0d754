"""Clients that follow a script: word checks of the counsellor's last reply select the client's next turn."""
