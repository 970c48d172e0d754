"""Speeches with replies, prepared for the page's template."""

from dataclasses import dataclass
from textwrap import shorten

from psychocounsel.reporting.blocks import ShownSpeech, SpeechBrowser
from psychocounsel.reporting.page.word_differences import marked

_BEGINNING = 90  # characters of a speech shown in its closed line


@dataclass(frozen=True)
class ReplyView:
    """A reply cut into pieces, each with True if it differs from the first reply.

    If `apart`, almost no word is shared, so no piece is marked.
    """

    author: str
    pieces: list[tuple[str, bool]]
    apart: bool
    scores: list[tuple[str, str]]


@dataclass(frozen=True)
class SpeechView:
    """A speech. `beginning` is shown while the speech is closed; it is empty for a crisis."""

    speech: ShownSpeech
    beginning: str
    replies: list[ReplyView]


class BrowserView:
    """A `SpeechBrowser` prepared for the template: its speeches, and the topics and risks that filter them."""

    def __init__(self, browser: SpeechBrowser) -> None:
        self.speeches = [_speech(speech) for speech in browser.speeches]
        self.topics = sorted({speech.topic for speech in browser.speeches if speech.topic})
        self.risks = sorted({speech.risk for speech in browser.speeches if speech.risk})
        self.opened = next((each for each in self.speeches if not each.speech.crisis), None)
        self.compares = any(len(speech.replies) > 1 for speech in browser.speeches)


def _speech(speech: ShownSpeech) -> SpeechView:
    beginning = "" if speech.crisis else shorten(speech.speech, _BEGINNING, placeholder=" …")
    replies = []
    for place, reply in enumerate(speech.replies):
        pieces = [(reply.text, False)] if place == 0 else marked(speech.replies[0].text, reply.text)
        scores = [(name, f"{score:.4g}") for name, score in reply.scores.items()]
        replies.append(ReplyView(reply.author, pieces or [(reply.text, False)], pieces is None, scores))
    return SpeechView(speech, beginning, replies)
