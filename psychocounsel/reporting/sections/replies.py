"""Section with speeches and replies side by side; no texts if these must not be shown."""

from collections.abc import Iterator, Sequence

from psychocounsel.blocks.kinds import (
    Block,
    Paragraph,
    Section,
    ShownReply,
    ShownSpeech,
    SpeechBrowser,
)
from psychocounsel.reporting.material import EVALUATION, Material, RunMaterial

_MOST_SPEECHES = 60  # speeches per browser


def reply_section(material: Material) -> Section:
    name, title = "replies", "Replies side by side"
    if not material.shows_texts:
        return Section(name, title, [_silence(material)] if material.runs else [])
    shown = [run for run in material.runs if run.texts is not None and run.texts.speeches and not run.confidential]
    blocks: list[Block] = [
        Paragraph(f"{run.title}: its texts are confidential and are not shown.", "warning")
        for run in material.runs
        if run.confidential
    ]
    evaluated = [run for run in shown if run.kind == EVALUATION]
    if evaluated:
        blocks += _browser("replies-of-evaluations", evaluated)
    for number, run in enumerate((run for run in shown if run.kind != EVALUATION), 1):
        blocks += _browser(f"replies-of-run-{number}", [run])
    return Section(name, title, blocks)


def _silence(material: Material) -> Paragraph:
    """Return a paragraph that says why no text is shown."""
    secret = ", ".join(run.title for run in material.runs if run.confidential)
    if secret:
        return Paragraph(f"No text is shown: the data of {secret} are confidential.", "warning")
    return Paragraph("No text is shown: the report was made with --no-text.")


def _browser(name: str, runs: Sequence[RunMaterial]) -> Iterator[Block]:
    speeches = _merged(runs)
    for run in runs:
        assert run.texts is not None
        shown = len(run.texts.speeches)
        yield Paragraph(f"{run.title}: {run.texts.source}, {shown} of {run.texts.count} speeches.")
    if any("better " in score for speech in speeches for reply in speech.replies for score in reply.scores):
        yield Paragraph(
            "Scores `better ...` (0 to 1): how often judges preferred the reply to others; a tie counts half."
        )
    if len(speeches) > _MOST_SPEECHES:
        yield Paragraph(
            f"The page shows {_MOST_SPEECHES} of these {len(speeches)} speeches, starting with those that most runs reply to."
        )
    yield SpeechBrowser(name, speeches[:_MOST_SPEECHES])


def _merged(runs: Sequence[RunMaterial]) -> list[ShownSpeech]:
    """Return each speech once with the replies of all runs. A reply that several runs share (the base's) appears once, first."""
    first: dict[str, ShownSpeech] = {}
    replies: dict[str, list[tuple[RunMaterial, ShownReply]]] = {}
    for run in runs:
        for speech in run.texts.speeches if run.texts else ():
            first.setdefault(speech.speech, speech)
            replies.setdefault(speech.speech, []).extend((run, reply) for reply in speech.replies)
    speeches = []
    for text, speech in first.items():
        crisis = speech.crisis or any(_is_crisis(run, text) for run, _ in replies[text])
        speeches.append(ShownSpeech(text, _distinct(replies[text]), speech.topic, speech.risk, crisis))
    run_counts = {text: len({run.path for run, _ in pairs}) for text, pairs in replies.items()}
    # The sort is stable, so speeches with equally many runs stay in the order of the runs.
    return sorted(speeches, key=lambda speech: -run_counts[speech.speech])


def _is_crisis(run: RunMaterial, text: str) -> bool:
    """True if the run treats the speech as a crisis. One such run is enough to hide it."""
    return any(speech.crisis for speech in (run.texts.speeches if run.texts else ()) if speech.speech == text)


def _distinct(replies: Sequence[tuple[RunMaterial, ShownReply]]) -> list[ShownReply]:
    """Return replies without duplicates of author and text. If an author has different texts, names start with the run."""
    authors: dict[tuple[str, str], list[tuple[RunMaterial, ShownReply]]] = {}
    for run, reply in replies:
        authors.setdefault((reply.author, reply.text), []).append((run, reply))
    texts: dict[str, int] = {}
    for author, _ in authors:
        texts[author] = texts.get(author, 0) + 1
    several = len({run.path for run, _ in replies}) > 1
    distinct = []
    for (author, text), pairs in sorted(authors.items(), key=lambda item: -len(item[1])):
        name = f"{pairs[0][0].title}: {author}" if several and texts[author] > 1 else author
        distinct.append(ShownReply(name, text, _scores(pairs)))
    return distinct


def _scores(pairs: Sequence[tuple[RunMaterial, ShownReply]]) -> dict[str, float]:
    """Return all scores of a reply. If several runs judged it, each score names its run."""
    judged = [(run, reply) for run, reply in pairs if reply.scores]
    return {
        f"{run.title}: {name}" if len(judged) > 1 else name: score
        for run, reply in judged
        for name, score in reply.scores.items()
    }
