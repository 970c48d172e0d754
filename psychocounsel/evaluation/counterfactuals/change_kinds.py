"""Kinds of counterfactual: the change to a reply, the principle that it concerns, and the response of a good scorer."""

from collections.abc import Callable
from dataclasses import dataclass

from psychocounsel.evaluation.counterfactuals import content_changes as content
from psychocounsel.evaluation.counterfactuals import style_changes as style
from psychocounsel.evaluation.counterfactuals import wording_changes as wording
from psychocounsel.evaluation.counterfactuals.question_changes import question_as_statement, statement_as_question


@dataclass(frozen=True)
class Kind:
    """Kind of change to a reply.

    Attributes:
        name: its name in files and tables.
        principle: the principle that it concerns.
        prefers_original: True if a good scorer scores the original higher; False if it scores both replies equally.
        change: the rule: it returns the changed reply, or None if it finds nothing to change. None for the kind that takes
            replies from other clients.
        instruction: request for the same change to a language model; None if only the rule makes it.
    """

    name: str
    principle: str
    prefers_original: bool
    change: Callable[[str], str | None] | None
    instruction: str | None = None


_SAME = "Keep everything else, the meaning, the order and the length above all."
_REST = "Leave every other sentence exactly as it is."

KINDS = (
    # Content changes: the reply helps the client less.
    Kind(
        "risk_question_dropped", "safety", True, content.risk_question_dropped,
        f"Remove every question that asks about suicide, self-harm, violence or safety. {_REST}",
    ),
    Kind(
        "help_removed", "safety", True, content.help_removed,
        f"Remove every sentence that leads the client to human help: a crisis line, an emergency service, a doctor. {_REST}",
    ),
    Kind("another_clients_reply", "relevance", True, None),
    Kind("open_questions_dropped", "exploration", True, content.open_questions_dropped),
    Kind("feeling_unnamed", "empathy", True, content.feeling_unnamed),
    Kind("offers_as_orders", "autonomy", True, content.offers_as_orders),
    Kind("hurried", "staging", True, content.hurried),
    Kind("disordered", "clarity", True, content.disordered),
    # Style changes: the reply helps as much as before, in other words or another format.
    Kind(
        "question_as_statement", "exploration", False, question_as_statement,
        f"Turn the last question into a statement that invites the same answer, without a question mark. {_SAME}",
    ),
    Kind(
        "statement_as_question", "exploration", False, statement_as_question,
        f"Turn the last sentence, if it is a statement, into a question that says the same. {_SAME}",
    ),
    Kind(
        "paraphrase", "clarity", False, wording.paraphrase,
        f"Say the same in other words, sentence by sentence. Questions stay questions, and statements statements. {_SAME}",
    ),
    Kind("contractions", "clarity", False, wording.other_contractions),
    Kind("spelling", "clarity", False, wording.other_spelling),
    Kind("markdown", "clarity", False, style.markdown),
    Kind("fillers", "clarity", False, style.fillers),
    Kind("capitals", "clarity", False, style.capitals),
    Kind("emoji", "clarity", False, style.emoji),
    Kind("padding", "clarity", False, style.padding),
)  # fmt: skip
