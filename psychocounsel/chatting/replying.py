"""Lets all models of a conversation reply to a message, shows replies and remarks, and writes the transcript."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

from omegaconf import DictConfig

from psychocounsel.asking.counsellor_prompt import prompt_text
from psychocounsel.asking.language_model import CUT, EMPTY, TEXT, Answer
from psychocounsel.chatting.chat_histories import ChatHistories, ChatReply
from psychocounsel.chatting.remarks import Remarks, check_findings
from psychocounsel.chatting.reply_raters import ReplyRaters
from psychocounsel.chatting.screen import Screen
from psychocounsel.chatting.speakers import Speaker, Writing, stopping
from psychocounsel.chatting.transcript import ChatTranscript
from psychocounsel.chatting.typed_messages import clean
from psychocounsel.errors import UserError

STOPPED = "stopped"  # outcome of a reply that the user stopped


class Talk:
    """A running conversation. `stopped` is True if the user stopped the last reply."""

    def __init__(self, config: DictConfig, speakers: list[Speaker], raters: ReplyRaters) -> None:
        replies = config.replies
        prompt = prompt_text(replies.system_prompt, "replies.system_prompt", None) if replies.system_prompt else None
        self.conversation = ChatHistories(prompt, replies.seed)
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
                        shown.show(index, clean(event.lstrip()))
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
            turn.attempts[-1] = {name: turn.replies[name] for name in names if name in turn.replies}
            if not turn.replies:
                self.conversation.undo()
            self.keep()
        if failed:
            raise failed[0]

    def keep(self) -> None:
        """Write the transcript if one was asked for."""
        if self.transcript is not None:
            self.transcript.write(self.conversation.turns)

    def _reply(self, name: str, answer: Answer, stopped: Callable[[], bool], failed: list[Exception]) -> ChatReply:
        """Return the reply with its remarks; if a rater fails, add its error to `failed`."""
        text = clean(answer.text).strip()
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
        if news := speaker.news():
            yield news
        if reply.outcome == CUT:
            yield f"cut at replies.max_tokens={self.max_tokens}"
        elif reply.outcome != TEXT:
            yield reply.outcome
