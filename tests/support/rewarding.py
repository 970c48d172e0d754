"""A judge for rewards on the loopback interface: it rates a reply by its words, so that tests can compute the rewards."""

import json
import re
from typing import Any

from psychocounsel.counsel.principles import PRINCIPLES

NO_JSON = "I would give it a four."


def shown(name: str, content: str) -> str | None:
    """Return the text of a request between the marks of `name`."""
    found = re.search(rf"<({name}-[0-9a-f]{{8}})>\n(.*?)\n</\1>", content, re.DOTALL)
    return found and found[2]


def rating(principle: str, reply: str) -> int | None:
    """Return 1 to 5 by a hash of principle and reply, which is the same on every machine; None for one value in six."""
    return (sum(map(ord, principle + reply)) % 6) or None


def judged(content: str) -> str:
    """Return the judge's answer to the last message of a request."""
    if "Rank the" in content:
        replies = [reply for place in range(1, 20) if (reply := shown(f"reply_{place}", content)) is not None]
        return ranks([-len(reply) for reply in replies])
    reply = shown("reply", content) or ""
    if "criterion_1" in content:
        numbers = re.findall(r"^criterion_(\d+)", content, re.MULTILINE)
        met = {f"criterion_{number}": {"reason": "So.", "met": len(reply) % int(number) == 0} for number in numbers}
        return json.dumps(met)
    names = content.rpartition("in this order: ")[2].rstrip(".").split(", ")
    assert {*names} <= {*PRINCIPLES}
    return json.dumps(
        {
            name: {"quote": "absent", "reason": "So.", "rating": rating(name, reply) or "not applicable"}
            for name in names
        }
    )


def ranks(scores: list[int]) -> str:
    """Return an answer that ranks replies by their scores, higher ones first."""
    given = {f"reply_{place}": 1 + sum(other > score for other in scores) for place, score in enumerate(scores, 1)}
    return json.dumps({"reason": "So.", **given})


def answering(write: Any = judged) -> Any:
    """Return the `respond` of a server (`tests.support.answering`) that answers the last message by `write`."""

    def respond(payload: Any, number: int) -> Any:
        text = "Hello." if is_check(payload) else write(payload["messages"][-1]["content"])
        return {"model": "served", "choices": [{"message": {"content": text}, "finish_reason": "stop"}], "usage": {}}

    return respond


def is_check(payload: Any) -> bool:
    """Return True for the request that only tests the connection."""
    return bool(payload["messages"][-1]["content"] == "Hello.")
