"""The errors a user can meet, and the exit codes of every command."""

DONE, USER_ERROR, GATE_NO, GATE_UNDECIDED, CONTINUE_LATER = 0, 2, 3, 4, 75


class UserError(Exception):
    """Something the user typed or supplied is wrong; the message says what to type instead. Exit code 2."""


class NonFinite(Exception):
    """A loss or gradient is NaN or infinite; the batch has been saved. Exit code 1."""


class Stopped(Exception):
    """A stop request was honoured and the state is on disk. Exit code 75: the same command goes on."""


class Guarded(Exception):
    """An evaluation exceeded a limit of `guard`, and `guard.stop` is set; the state is on disk. Exit code 3."""
