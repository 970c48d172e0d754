"""The loop of `psychocounsel.chat`: a message or a command, then the replies of all models with remarks beside them."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path

from omegaconf import DictConfig

from psychocounsel.asking.counsellor_prompt import prompt_text
from psychocounsel.asking.language_model import CUT, EMPTY, TEXT, Answer, open_model
from psychocounsel.chatting.chat_commands import obey
from psychocounsel.chatting.companions import Companions
from psychocounsel.chatting.conversation import ChatReply, Conversation
from psychocounsel.chatting.notices import notices, refuse_outsiders
from psychocounsel.chatting.remarks import Remarks
from psychocounsel.chatting.screen import Screen
from psychocounsel.chatting.speakers import Speaker, Writing, stopping
from psychocounsel.chatting.transcript import Transcript
from psychocounsel.chatting.typed_messages import clean, next_message, read_piped, terminal_reader
from psychocounsel.errors import DONE, UserError
from psychocounsel.evaluation.contestants.settings import Contestants, in_the_users_words
from psychocounsel.settings.messages import one_line
from psychocounsel.settings.sections.annotation_groups import require_keys
from psychocounsel.settings.targets import build

_INTERRUPTED = 130
STOPPED = "stopped"  # the outcome of a reply that the user has ended


def talk(config: DictConfig) -> int:
    """Hold the conversation of a checked configuration until the user leaves or the input ends; returns the exit code.

    Where input or output is no terminal, a mistake or a reply that fails ends it.

    Raises:
        UserError: for a model that cannot be loaded or asked, and in a pipe for everything else.
    """
    contestants: Contestants = build(config, "contestants")
    with in_the_users_words(contestants.settings), ExitStack() as opened:
        refuse_outsiders(config)
        require_keys(config, {"contestants", "annotator"})
        is_terminal = sys.stdin.isatty() and sys.stdout.isatty()
        talk = Talk(config, _speakers(contestants, opened, is_terminal), Companions(config))
        opened.callback(talk.companions.close)
        for line in notices(config):
            print(line, file=sys.stdout if is_terminal else sys.stderr, flush=True)
        return talk.at_terminal() if is_terminal else talk.in_pipe()


class Talk:
    """A conversation under way."""

    def __init__(self, config: DictConfig, speakers: list[Speaker], companions: Companions) -> None:
        replies = config.replies
        prompt = prompt_text(replies.system_prompt, "replies.system_prompt", None) if replies.system_prompt else None
        self.conversation = Conversation(prompt, replies.seed)
        self.speakers, self.companions, self.screen = speakers, companions, Screen.opened()
        self.max_tokens = replies.max_tokens
        self.transcript = Transcript(Path(config.transcript)) if config.transcript else None

    def at_terminal(self) -> int:
        """Answer what is typed; mistakes are said, and Ctrl-C twice leaves."""
        read, interrupted = terminal_reader(), False
        while True:
            try:
                self.screen.line()
                if (text := next_message(read)) is None or not self.take(text):
                    return DONE
                interrupted = False
            except KeyboardInterrupt:
                if interrupted:
                    self.screen.line()
                    return DONE
                interrupted = True
                self.screen.line("\nCtrl-C once more leaves", "dim")
            except (UserError, OSError) as error:
                self.screen.line(one_line(error, []), "red")

    def in_pipe(self) -> int:
        """Answer what comes, to its end."""
        try:
            while (text := next_message(read_piped)) is not None and self.take(text):
                pass
        except KeyboardInterrupt:
            return _INTERRUPTED
        return DONE

    def take(self, text: str) -> bool:
        """Do what a message or command asks for; returns whether the conversation goes on.

        Raises:
            UserError: for a command that cannot be done, and a message that no model has a reply to.
        """
        if text.startswith("/"):
            return obey(text, self)
        self.conversation.add(text.strip())
        self.reply()
        return True

    def reply(self) -> None:
        """Let every model reply to the last message. What fails in all of them is taken back.

        Raises:
            UserError: for the first model that has no reply, once the others have theirs.
        """
        failed: list[Exception] = []
        turn, names = self.conversation.turns[-1], [speaker.name for speaker in self.speakers]
        writing = Writing(self.speakers, self.conversation)
        with stopping(writing.stopped), self.screen.replies(names) as shown:
            for index, event in writing.events():
                if isinstance(event, str):
                    shown.show(index, clean(event.lstrip()))
                elif isinstance(event, Answer):
                    reply = self._reply(names[index], event, writing.stopped.is_set)
                    turn.replies[names[index]] = reply
                    shown.end(index, reply.text, [*self._about(self.speakers[index], reply), *reply.remarks.lines()])
                else:
                    failed.append(event)
                    shown.end(index, "", ["no reply"])
        if not turn.replies:
            self.conversation.undo()
        self.keep()
        if failed:
            raise failed[0]

    def keep(self) -> None:
        """Write the transcript, if one was asked for."""
        if self.transcript is not None:
            self.transcript.write(self.conversation.turns)

    def _reply(self, name: str, answer: Answer, stopped: Callable[[], bool]) -> ChatReply:
        text = clean(answer.text).strip()
        outcome = STOPPED if stopped() else answer.outcome if text or answer.outcome not in (TEXT, CUT) else EMPTY
        remarks = Remarks()
        if text:
            history = self.conversation.history(name)
            remarks = self.companions.remarks(history, self.conversation.turns[-1].message, text, stopped)
        return ChatReply(text, outcome, self.conversation.seed_now(), remarks)

    def _about(self, speaker: Speaker, reply: ChatReply) -> Iterator[str]:
        """What is to be said of how a reply came about."""
        if news := speaker.news():
            yield news
        if reply.outcome == CUT:
            yield f"cut at replies.max_tokens={self.max_tokens}"
        elif reply.outcome != TEXT:
            yield reply.outcome


def _speakers(contestants: Contestants, opened: ExitStack, is_terminal: bool) -> list[Speaker]:
    found = list[Speaker]()
    models = contestants.models()
    for number, model in enumerate(models):
        if is_terminal:
            print(f"opening {model.name} ...", flush=True)
        answerer = open_model(model, f"contestants.members[{number}]")
        opened.callback(answerer.close)
        answerer.check()
        found.append(Speaker(model.name, answerer))
    return found
