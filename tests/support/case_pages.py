"""Helpers for the page of a review of cases: the texts that experts see, and the page without variable parts."""

import re

# The same as reviewing.QUICK, but without `review.practice`, because reviews of cases have no practice items.
QUICK_CASES = ("review.crisis_in_a_row=1000", "review.minutes_a_day=100000", "review.minutes_at_once=100000")


def shown_text(page: str) -> str:
    """Return the first text of the conversation as HTML."""
    found = re.search(r'<p class="text"[^>]*>(.*?)</p>', page, re.DOTALL)
    assert found, page
    return found[1]


def without_text(page: str) -> str:
    """Return the page with text, id and number of the item replaced, so that pages of two items can be compared."""
    page = page.replace(shown_text(page), "TEXT")
    return re.sub(r"(item[/=])\w{16}", r"\1ID", re.sub(r"Item \d+ of|\d+ of \d+ items|value=\"\d+\" aria", "N", page))
