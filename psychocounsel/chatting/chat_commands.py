"""Commands of a conversation: lines that begin with a slash."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from psychocounsel.asking.counsellor_prompt import prompt_text
from psychocounsel.chatting.replying import Talk
from psychocounsel.chatting.settings import transcript_path
from psychocounsel.chatting.transcript import save
from psychocounsel.chatting.typed_messages import clean
from psychocounsel.errors import UserError
from psychocounsel.settings.schema import suggestion

HELP = '''\
/again               get another reply to your last message, with another seed
/undo                undo the last /again, or otherwise your last message and its reply
/system              show the system prompt
/system TEXT|FILE    change the system prompt from the next message on; /system null removes it
/new                 forget the conversation and start a new one
/save FILE.jsonl     save the conversation to a new file that only you can read; or FILE.md
/quit                leave (also Ctrl-D)
A line that ends with \\ continues on the next line. Lines between two lines of """ are one message; so is pasted text.
Ctrl-C stops a reply and keeps the text so far; a second Ctrl-C leaves. To begin a message with /, put a space before it.'''


def obey(line: str, talk: Talk) -> bool:
    """Execute a command; returns True if the conversation continues.

    Raises:
        UserError: if the command does not exist or cannot be executed.
    """
    name, *rest = line.split(maxsplit=1)
    given = "".join(rest)
    if name == "/quit":
        return False
    if name not in _COMMANDS:
        raise UserError(f"{name}: unknown command; {suggestion(name, list(_COMMANDS))}; /help lists them")
    if given and name not in ("/system", "/save"):
        raise UserError(f"{name}: takes no argument")
    _COMMANDS[name](talk, given)
    return True


def _help(talk: Talk, given: str) -> None:
    for line in HELP.splitlines():
        talk.screen.line(line)


def _again(talk: Talk, given: str) -> None:
    talk.conversation.again()
    talk.reply()


def _undo(talk: Talk, given: str) -> None:
    talk.screen.line(f"undone: {talk.conversation.undo()}", "dim")
    talk.keep()


def _system(talk: Talk, given: str) -> None:
    conversation = talk.conversation
    if given:
        conversation.system_prompt = None if given == "null" else _prompt(given)
        talk.screen.line("the next message will use this system prompt", "dim")
    else:
        talk.screen.line(conversation.system_prompt or "there is no system prompt")


def _prompt(given: str) -> str:
    path = Path(given).expanduser()
    try:
        is_file = path.is_file()
    except (OSError, ValueError):  # raised for a text that is too long for a path
        is_file = False
    if not is_file:
        return prompt_text(given, "/system", None)
    try:
        return clean(path.read_text(encoding="utf-8")).strip()
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"/system {given}: cannot be read as UTF-8 text") from error


def _new(talk: Talk, given: str) -> None:
    talk.conversation.clear()
    for speaker in talk.speakers:
        speaker.forget()
    talk.screen.line("new conversation", "dim")
    talk.keep()


def _save(talk: Talk, given: str) -> None:
    if not given:
        raise UserError("/save: needs a file: /save FILE.jsonl or /save FILE.md")
    if not talk.conversation.turns:
        raise UserError("/save: there is nothing to save yet")
    path = transcript_path(given, "/save ")
    save(path, talk.conversation.turns)
    talk.screen.line(f"saved to {path}", "dim")


_COMMANDS: dict[str, Callable[[Talk, str], None]] = {
    "/help": _help,
    "/again": _again,
    "/undo": _undo,
    "/system": _system,
    "/new": _new,
    "/save": _save,
}
