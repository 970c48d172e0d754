"""Which groups hang together because they share a prompt or a reply."""

from collections.abc import Sequence

from psychocounsel.data.group import Array, Group
from psychocounsel.data.selection.shared_text import components


def components_of_groups(groups: Sequence[Group]) -> Array:
    """Return the number of each group's component, int64[groups], where groups that share a prompt or a reply are connected."""
    numbers: dict[bytes, int] = {}
    prompts = [numbers.setdefault(group.prompt_ids.tobytes(), len(numbers)) for group in groups]
    texts: dict[bytes, int] = {}
    replies = [[texts.setdefault(each.ids.tobytes(), len(texts)) for each in group.completions] for group in groups]
    return components(prompts, replies)
