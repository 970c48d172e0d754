"""The page of a review of cases: what experts see, and forms that they send."""

import re

# As reviewing.QUICK, without practice, which cases have none of.
QUICK_CASES = ("review.crisis_in_a_row=1000", "review.minutes_a_day=100000", "review.minutes_at_once=100000")


def shown_text(page: str) -> str:
    """The first text of the conversation, as HTML."""
    found = re.search(r'<p class="text">(.*?)</p>', page, re.DOTALL)
    assert found, page
    return found[1]


def without_text(page: str) -> str:
    """The page without what differs between any two items: text, id and number."""
    page = page.replace(shown_text(page), "TEXT")
    return re.sub(r"(item[/=])\w{16}", r"\1ID", re.sub(r"Item \d+ of|\d+ of \d+ items|value=\"\d+\" aria", "N", page))
