"""Error for data that hold no pairs, shared by the commands that need pairs."""

from psychocounsel.errors import UserError


def no_pairs(command: str) -> UserError:
    """Return the error that `command` (audit or evaluate) raises if the selected rows are not pairs."""
    return UserError(
        f"there are no pairs to {command}: each row needs a chosen and a rejected reply, and part=held_out needs a held-out "
        "split"
    )
