"""The system prompt for models that reply to a client: dataset writers, contestants, chat."""

from pathlib import Path

from psychocounsel.errors import UserError

BUILTIN = "builtin:counsellor"
COUNSELLOR = """\
You are a counsellor. A client has written to you, and you write the reply that you would give in a session. \
Show that you understand what the client feels and why it matters to them. Stay with what the client has said, and do not assume \
what they have not told you. Where it helps, ask one open question, or name one small step, and leave the decision with the \
client. Do not diagnose, judge or lecture. If the client may be in danger, take it seriously, ask about their safety directly, \
and name help that they can reach now.
Write to the client as "you", in plain words and short paragraphs, in the language that the client writes in. \
Give the reply alone: no heading, no list, no notes about it."""
_LIMIT = " Use at most {limit} words."


def prompt_text(given: str, key: str, length_limit: int | None) -> str:
    """Return the system message for the setting `key`, with the length limit in words appended.

    `given` is builtin:counsellor, a .txt file to read, or the text itself.

    Raises:
        UserError: for an unknown builtin prompt, and for a file that cannot be read.
    """
    if given.startswith("builtin:") and given != BUILTIN:
        raise UserError(f"{key}={given}: the only builtin prompt is {BUILTIN}; or give a text or a .txt file")
    text = COUNSELLOR if given == BUILTIN else given
    if given.endswith(".txt"):
        try:
            text = Path(given).read_text(encoding="utf-8").strip()
        except (OSError, UnicodeDecodeError) as error:
            raise UserError(f"{key}={given}: cannot be read as UTF-8 text") from error
    return text + (_LIMIT.format(limit=length_limit) if length_limit else "")
