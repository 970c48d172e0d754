"""A server's text reaches the terminal without escape sequences."""

import io

from rich.console import Console

from psychocounsel.chatting.terminal import Screen
from psychocounsel.errors import printable


def test_escape_sequences_of_a_server_do_not_reach_the_terminal() -> None:
    said = "I hear\x1b]0;mine\x07 you\x1b[2J\x9b31m\r\n\tStill \u00e9\U0001f642."
    assert printable(said) == "I hear\ufffd]0;mine\ufffd you\ufffd[2J\ufffd31m\n\tStill \u00e9\U0001f642."
    for names in (["one"], ["one", "two"]):
        out = io.StringIO()
        screen = Screen(Console(file=out, force_terminal=len(names) > 1, color_system=None, width=100))
        with screen.replies(names) as replies:
            replies.show(0, said[:8])
            for index in range(len(names)):
                replies.end(index, said, ["a\x1b[2Jremark"])
        assert "\x1b]0" not in out.getvalue() and "\x1b[2J" not in out.getvalue() and "remark" in out.getvalue()
