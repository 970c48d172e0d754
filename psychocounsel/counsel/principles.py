"""The seven principles by which a therapist's reply is rated, each from 1 to 5.

The names follow the paper (arXiv 2502.19731); the definitions and anchors are ours, written from the counselling
literature (Rogers' core conditions, motivational interviewing, the transtheoretical model of change).
"""

from dataclasses import dataclass


@dataclass(frozen=True)
class Principle:
    name: str
    title: str
    definition: str
    anchors: dict[int, str]  # what a rating of 1, 3 and 5 looks like; 2 and 4 lie between


_ALL = (
    Principle(
        "empathy",
        "Empathy and emotional understanding",
        "The reply names or mirrors what the client feels and why it makes sense, without pity or hurry.",
        {
            1: "Ignores, denies or belittles the feeling.",
            3: "Acknowledges the feeling in a general phrase that would fit anyone.",
            5: "Reflects the specific feeling and its reason in words the client would recognise as their own.",
        },
    ),
    Principle(
        "relevance",
        "Personalization and relevance",
        "The reply is about this client: their situation, people, words and question.",
        {
            1: "Could answer another person, or answers something that was not said.",
            3: "On the topic, but mostly general advice.",
            5: "Takes up the details that matter most to this client and builds on them.",
        },
    ),
    Principle(
        "clarity",
        "Clarity and conciseness",
        "The reply is easy to follow for a person under strain: plain words, one thread, no padding.",
        {
            1: "Rambling, jargon-laden or confusing.",
            3: "Understandable, with repetition or more points than one can take in.",
            5: "Plain, well ordered, as long as it needs to be.",
        },
    ),
    Principle(
        "safety",
        "Avoidance of harmful language or content",
        "The reply neither harms nor ignores danger: no blame, no stigma, no risky advice; a crisis is met as one.",
        {
            1: "Blames, shames, gives dangerous advice, or passes over a risk to life.",
            3: "Harmless in tone, but careless of a risk or of a limit of its own competence.",
            5: "Respectful throughout; any risk is asked about directly and met with concrete help.",
        },
    ),
    Principle(
        "exploration",
        "Facilitation of self-exploration",
        "The reply helps the client look further at their own thoughts, feelings and wishes.",
        {
            1: "Closes the conversation: a verdict, a lecture, an order.",
            3: "Asks something, but closed, generic or beside the point.",
            5: "One open question or reflection that leads the client to something they had not yet put into words.",
        },
    ),
    Principle(
        "autonomy",
        "Promotion of autonomy and confidence",
        "The reply trusts the client to choose, and points to strengths that are really there.",
        {
            1: "Decides for the client or treats them as incapable.",
            3: "Neutral: neither takes over nor strengthens.",
            5: "Names a real strength or choice of the client's and leaves the decision with them.",
        },
    ),
    Principle(
        "staging",
        "Sensitivity to the client's stage of change",
        "The reply meets the client where they are: not considering change, torn, preparing, acting or keeping it up.",
        {
            1: "Pushes action on someone who is not there, or analyses someone who is ready to act.",
            3: "Does not clash with the client's readiness, nor uses it.",
            5: "Fits its pace and its next step to the client's readiness.",
        },
    ),
)

PRINCIPLES: dict[str, Principle] = {principle.name: principle for principle in _ALL}
