"""Markdown page with a few of the policy's replies for people to read."""

from collections.abc import Sequence

from psychocounsel.data.group import Completion, Group


def sample_page(groups: Sequence[Group], count: int, title: str) -> str:
    """Return a page with the first `count` of the scored `groups`: prompt, best reply and, of several replies, the worst."""
    parts = [f"# {title}"]
    for group in groups[:count]:
        ranked = sorted(group.completions, key=lambda reply: -(reply.reward or 0.0))
        parts += [_quoted(f"**{message['role']}**: {message['content']}") for message in group.messages or []]
        parts += [_shown(reply) for reply in (ranked[:1] if len(ranked) < 2 else [ranked[0], ranked[-1]])]
        parts.append("---")
    return "\n\n".join(parts) + "\n"


def _shown(reply: Completion) -> str:
    cut = ", cut" if reply.finish_reason == "length" else ""
    return f"reward {reply.reward or 0.0:.3f}, {len(reply.ids)} tokens{cut}\n\n" + _quoted(reply.text)


def _quoted(text: str) -> str:
    return "\n".join(f"> {line}" for line in text.splitlines() or [""])
