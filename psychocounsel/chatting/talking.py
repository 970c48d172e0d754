"""The loop of `psychocounsel.chat`: reads a message or command, and shows the replies of all models with remarks."""

from __future__ import annotations

import sys
from contextlib import ExitStack

from omegaconf import DictConfig

from psychocounsel.asking.language_model import open_model
from psychocounsel.asking.model_groups import require_keys
from psychocounsel.asking.system_messages import refuse_system_prompts
from psychocounsel.chatting.chat_commands import obey
from psychocounsel.chatting.notices import notices, refuse_outsiders
from psychocounsel.chatting.reply_raters import ReplyRaters
from psychocounsel.chatting.replying import Talk
from psychocounsel.chatting.speakers import Speaker
from psychocounsel.chatting.typed_messages import next_message, read_piped, terminal_reader
from psychocounsel.errors import DONE, UserError
from psychocounsel.evaluation.contestants.settings import Contestants, in_the_users_words
from psychocounsel.reward.base import RewardSettings
from psychocounsel.reward.local_model import format_lines
from psychocounsel.reward.sections import reward_sections
from psychocounsel.settings.messages import one_line
from psychocounsel.settings.targets import build, build_section

_INTERRUPTED = 130


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
        for line in [*notices(config), *contestants.format_lines(), *format_lines(_rewards(config))]:
            print(line, file=sys.stdout if is_terminal else sys.stderr, flush=True)
        return _at_terminal(talk) if is_terminal else _in_pipe(talk)


def _rewards(config: DictConfig) -> list[RewardSettings]:
    return [build_section(section, "reward") for _, section in reward_sections(config)]


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
                return _INTERRUPTED
    except KeyboardInterrupt:
        return _INTERRUPTED
    return DONE


def _take(text: str, talk: Talk) -> bool:
    """Process a message or command; returns True if the conversation continues.

    Raises:
        UserError: if a command fails, or if a model has no reply to the message.
    """
    talk.stopped = False
    with in_the_users_words(talk.settings):
        if text.startswith("/"):
            return obey(text, talk)
        talk.conversation.add(text.strip())
        talk.reply()
    return True


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
