"""Components of groups connected by shared prompts or replies."""

from collections.abc import Sequence

from psychocounsel.data.group import Array, Group
from psychocounsel.data.selection.shared_text import components


def components_of_groups(groups: Sequence[Group]) -> Array:
    """Return the component of each group, int64[groups]; groups that share a prompt or a reply (as tokens) are connected."""
    numbers: dict[bytes, int] = {}
    prompts = [numbers.setdefault(group.prompt_ids.tobytes(), len(numbers)) for group in groups]
    texts: dict[bytes, int] = {}
    replies = [[texts.setdefault(each.ids.tobytes(), len(texts)) for each in group.completions] for group in groups]
    return components(prompts, replies)
