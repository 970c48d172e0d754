"""The loop of `psychocounsel chat`: reads a message or command, and shows the replies of all models with remarks."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

from omegaconf import DictConfig

from psychocounsel.asking.language_model import CUT, EMPTY, TEXT, Answer, LanguageModel, keys_of, open_model
from psychocounsel.asking.model_groups import require_keys
from psychocounsel.asking.parties import is_own
from psychocounsel.asking.system_prompts import prompt_lines, refuse_system_prompts, replies_prompt
from psychocounsel.chatting.histories import ChatHistories, ChatReply, ChatTranscript, save
from psychocounsel.chatting.raters import Remarks, ReplyRaters, check_findings
from psychocounsel.chatting.settings import transcript_path
from psychocounsel.chatting.speakers import Speaker, Writing, stopping
from psychocounsel.chatting.terminal import Screen, next_message, read_piped, terminal_reader
from psychocounsel.counsel.system_prompt import prompt_text
from psychocounsel.errors import DONE, INTERRUPTED, UserError, printable
from psychocounsel.evaluation.contestants.settings import Contestants, in_the_users_words
from psychocounsel.remote.server_access import host_of
from psychocounsel.reward.local_model import format_lines
from psychocounsel.reward.sections import reward_sections
from psychocounsel.settings.messages import one_line
from psychocounsel.settings.schema import suggestion
from psychocounsel.settings.targets import build, build_section
from psychocounsel.storage.files import expanded

# The loop


def talk(config: DictConfig) -> int:
    """Hold the conversation of a checked configuration until the user leaves or the input ends; returns the exit code.

    If input or output is not a terminal, the first error ends the conversation.

    Raises:
        UserError: if a model cannot be loaded or asked; in a pipe, for any other error as well.
    """
    contestants: Contestants = build(config, "contestants")
    with in_the_users_words(contestants.settings), ExitStack() as opened:
        refuse_outsiders(config)
        require_keys(config, {"contestants", "annotator"})
        refuse_system_prompts(config)
        is_terminal = sys.stdin.isatty() and sys.stdout.isatty()
        talk = Talk(config, _speakers(contestants, opened, is_terminal), ReplyRaters(config))
        opened.callback(talk.raters.close)
        for line in [
            *notices(config),
            *contestants.format_lines(),
            *prompt_lines(config),
            *format_lines([build_section(section, "reward") for _, section in reward_sections(config)]),
        ]:
            print(line, file=sys.stdout if is_terminal else sys.stderr, flush=True)
        return _at_terminal(talk) if is_terminal else _in_pipe(talk)


def _at_terminal(talk: Talk) -> int:
    """Answer typed messages; errors are printed, and two Ctrl-C in a row leave."""
    read, interrupted = terminal_reader(), False
    while True:
        try:
            talk.screen.line()
            if (text := next_message(read)) is None or not _take(text, talk):
                return DONE
            interrupted = False  # the next Ctrl-C counts as the first again
        except KeyboardInterrupt:
            if interrupted or talk.stopped:
                talk.screen.line()
                return DONE
            interrupted = True
            talk.screen.line("\nCtrl-C again leaves", "dim")
        except (UserError, OSError) as error:
            talk.screen.line(one_line(error, []), "red")


def _in_pipe(talk: Talk) -> int:
    """Answer piped messages until the input ends."""
    try:
        while (text := next_message(read_piped)) is not None and _take(text, talk):
            if talk.stopped:
                return INTERRUPTED
    except KeyboardInterrupt:
        return INTERRUPTED
    return DONE


def _take(text: str, talk: Talk) -> bool:
    """Process a message or command; returns True if the conversation continues.

    Raises:
        UserError: if a command fails, or if a model has no reply to the message.
    """
    talk.stopped = False
    with in_the_users_words(talk.settings):
        if text.startswith("/"):
            return execute(text, talk)
        talk.conversation.add(text.strip())
        talk.reply()
    return True


def _speakers(contestants: Contestants, opened: ExitStack, is_terminal: bool) -> list[Speaker]:
    speakers = list[Speaker]()
    models = contestants.models()
    for number, model in enumerate(models):
        if is_terminal:
            print(f"opening {model.name} ...", flush=True)
        answerer = open_model(model, f"contestants.members[{number}]")
        opened.callback(answerer.close)
        answerer.check()
        speakers.append(Speaker(model.name, answerer))
    return speakers


# Notices before the first message

NOTICE = """\
You are writing to a language model. It is not a therapist and not a human being, it can be wrong, and nobody reads along.
If you or somebody else may be in danger, call your local emergency number, or turn to a doctor, a crisis service or a person \
whom you trust."""
ABOUT_CHECKS = (
    "The checks of replies match words and overlook most of what a person sees: no finding does not mean a safe reply."
)
NOT_KEPT = "Nothing is saved to disk unless you ask for it. /help lists the commands; Ctrl-D leaves."


@dataclass(frozen=True)
class Outsider:
    """A receiver of the user's texts that may be a third party: its key, its name and its hosts."""

    key: str
    name: str
    hosts: tuple[str, ...]

    @property
    def where(self) -> str:
        return ", ".join(self.hosts) or "its servers"


def outsiders(config: DictConfig) -> Iterator[Outsider]:
    """Yield the models, annotators and rewards that may belong to third parties."""
    for group in ("contestants", "annotator"):
        if group in config:
            models: list[LanguageModel] = build(config, group).models()
            for key, model in zip(keys_of(models, group), models, strict=True):
                if model.is_third_party():
                    yield Outsider(key, model.name, _hosts(model.receivers(key)))
    if config.get("reward") is not None:
        receivers = build(config, "reward").receivers("reward")
        if not all(is_own(address) for _, address in receivers):
            yield Outsider("reward", str(config.reward.name), _hosts(receivers))


def refuse_outsiders(config: DictConfig) -> None:
    """Refuse third parties unless `crisis_to_third_parties` is true, because any message may be about a crisis.

    Raises:
        UserError: names the first third party and its host.
    """
    for outsider in outsiders(config):
        if not config.crisis_to_third_parties:
            raise UserError(
                f"{outsider.key}: {outsider.name} sends what you write to {outsider.where}, which may belong to others, "
                "and what you write may be about a crisis: add crisis_to_third_parties=true if they may see it, or use a model "
                "of your own"
            )


def notices(config: DictConfig) -> Iterator[str]:
    """Yield the lines shown before the first message."""
    yield from NOTICE.splitlines()
    for outsider in outsiders(config):
        receiver = f"{outsider.name}: your messages are sent to {outsider.where}"
        yield f"{receiver}, which may belong to others; they decide what they keep."
    yield ABOUT_CHECKS
    if config.transcript:
        yield f"This conversation is written to {config.transcript}. /help lists the commands; Ctrl-D leaves."
    else:
        yield NOT_KEPT


def _hosts(receivers: list[tuple[str, str]]) -> tuple[str, ...]:
    return tuple(dict.fromkeys(host_of(address) for _, address in receivers))


# Replies of all models to a message

STOPPED = "stopped"  # outcome of a reply that the user stopped


class Talk:
    """A running conversation. `stopped` is True if the user stopped the last reply."""

    def __init__(self, config: DictConfig, speakers: list[Speaker], raters: ReplyRaters) -> None:
        replies = config.replies
        self.conversation = ChatHistories(replies_prompt(config), replies.seed)
        self.speakers, self.raters, self.screen = speakers, raters, Screen.opened()
        self.max_tokens, self.stopped = replies.max_tokens, False
        self.settings = list(config.contestants.settings)
        self.transcript = ChatTranscript(Path(config.transcript)) if config.transcript else None

    def reply(self) -> None:
        """Let every model reply to the last message. If all of them fail, the turn (or the /again) is undone.

        Raises:
            Exception: the first error of a model or rater, usually a UserError, after all replies have ended.
        """
        failed: list[Exception] = []
        turn, names = self.conversation.turns[-1], [speaker.name for speaker in self.speakers]
        writing = Writing(self.speakers, self.conversation)
        try:
            with stopping(writing.stopped), self.screen.replies(names) as shown:
                for index, event in writing.events():
                    if isinstance(event, str):
                        shown.show(index, printable(event.lstrip()))
                    elif isinstance(event, Answer):
                        reply = self._reply(names[index], event, writing.stopped.is_set, failed)
                        turn.replies[names[index]] = reply
                        about = [*self._about(self.speakers[index], reply), *reply.remarks.lines()]
                        shown.end(index, reply.text, about)
                    else:
                        failed.append(event)
                        shown.end(index, "", ["no reply"])
        finally:
            self.stopped = writing.stopped.is_set()
            turn.attempts[-1].replies = {name: turn.replies[name] for name in names if name in turn.replies}
            if not turn.replies:
                self.conversation.undo()
            self.keep()
        if failed:
            raise failed[0]

    def keep(self) -> None:
        """Write the transcript if one was asked for."""
        if self.transcript is not None:
            self.transcript.write([*self.conversation.ended, *self.conversation.turns])

    def _reply(self, name: str, answer: Answer, stopped: Callable[[], bool], failed: list[Exception]) -> ChatReply:
        """Return the reply with its remarks; if a rater fails, add its error to `failed`."""
        text = printable(answer.text).strip()
        outcome = STOPPED if stopped() else answer.outcome if text or answer.outcome not in (TEXT, CUT) else EMPTY
        remarks = Remarks()
        if text:
            message = self.conversation.turns[-1].message
            try:
                remarks = self.raters.remarks(self.conversation.history(name), message, text, stopped)
            except UserError as error:
                failed.append(error)
                remarks = Remarks(checks=check_findings(message, text))
        return ChatReply(text, outcome, self.conversation.seed_now(), remarks)

    def _about(self, speaker: Speaker, reply: ChatReply) -> Iterator[str]:
        """Yield notes about the reply: skipped turns, or an outcome other than `text`."""
        if notice := speaker.notice():
            yield notice
        if reply.outcome == CUT:
            yield f"cut at replies.max_tokens={self.max_tokens}"
        elif reply.outcome != TEXT:
            yield reply.outcome


# Commands: lines that begin with a slash

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


def execute(line: str, talk: Talk) -> bool:
    """Execute a command; returns True if the conversation continues.

    Raises:
        UserError: if the command does not exist or cannot be executed.
    """
    name, *rest = line.split(maxsplit=1)
    given = "".join(rest)
    if name == "/quit":
        return False
    if name not in _COMMANDS:
        raise UserError(
            f"{name}: unknown command; {suggestion(name.lower(), [*_COMMANDS, '/quit'], '/help lists them')}"
        )
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
        talk.screen.line(printable(conversation.system_prompt or "there is no system prompt"))


def _prompt(given: str) -> str:
    path = expanded(given)
    try:
        is_file = path.is_file()
    except (OSError, ValueError):  # raised for a text that is too long for a path
        is_file = False
    if not is_file:
        return prompt_text(given, "/system", None)
    try:
        return printable(path.read_text(encoding="utf-8")).strip()
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
