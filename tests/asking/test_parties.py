"""Tests which servers count as the user's own, and which texts count as refusals."""

import pytest

from psychocounsel.asking.answer_text import is_refusal
from psychocounsel.asking.parties import is_own, who_may_see
from tests.support.asking import chat


@pytest.mark.parametrize(
    ("address", "own"),
    [
        ("http://127.0.0.1:8000/v1", True),
        ("http://localhost:11434/v1", True),
        ("http://[::1]:8000", True),
        ("http://10.1.2.3:8000", True),
        ("http://192.168.0.7", True),
        ("http://172.31.0.1", True),
        ("http://169.254.1.1", True),
        ("http://[fe80::1]:80", True),
        ("http://gpu.local:8000", True),
        ("https://llm.clinic.internal/v1", True),
        ("https://api.openai.com/v1", False),
        ("http://172.32.0.1", False),
        ("http://8.8.8.8", False),
        ("https://internal.example.com", False),
        ("https://localhost.example.com", False),
        ("https://127.0.0.1.example.com", False),
        ("http://gpu7:8000", False),
    ],
)
def test_an_address_is_own_only_if_it_surely_is(address: str, own: bool) -> None:
    assert is_own(address) == own
    assert chat(address).is_third_party() == (not own)
    assert chat(address, third_party=own).is_third_party() == own, "the user decides"
    assert who_may_see([chat(address)], True, False) == ([chat(address)] if own else [])
    assert who_may_see([chat(address)], False, False) == who_may_see([chat(address)], True, True) == [chat(address)]


def test_one_address_of_others_or_a_proxy_of_others_makes_a_third_party(monkeypatch: pytest.MonkeyPatch) -> None:
    assert chat(["http://127.0.0.1:1", "https://api.example.com"]).is_third_party()
    monkeypatch.setenv("HTTP_PROXY", "http://proxy.example.com:3128")
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    assert is_own("http://127.0.0.1:8000") and not is_own("http://10.0.0.1:8000")
    monkeypatch.setenv("HTTP_PROXY", "http://10.0.0.9:3128")
    assert is_own("http://10.0.0.1:8000")


@pytest.mark.parametrize(
    ("model", "passed_on"),
    [("gpt-oss:120b-cloud", True), ("glm-4.6:cloud", True), ("gpt-oss:20b", False), ("cloud-counsel:8b", False)],
)
def test_a_model_of_ollamas_cloud_is_a_third_party_behind_a_loopback_address(model: str, passed_on: bool) -> None:
    assert chat("http://127.0.0.1:11434/v1", model).is_third_party() == passed_on
    assert not chat("http://127.0.0.1:11434/v1", model, third_party=False).is_third_party(), "the user decides"


@pytest.mark.parametrize(
    "text",
    [
        "I'm sorry, but I can't help with that.",
        "I\u2019m really sorry that you're feeling this way, but I'm unable to provide the help that you need.",
        "I cannot assist with this request.",
        "Sorry, I can't continue this conversation.",
        "As an AI language model, I cannot provide therapy.",
        "I am not able to rate this reply.",
        "Unfortunately, I can't engage with this topic.",
        "This request is against our content policy.",
        "I won't write that.",
        "I'm so sorry. I can't help with that.",
        "I'm really sorry you're feeling this way. I'm unable to give you the support that you need.",
        "I'm sorry, but I can't answer this question.",
        "I am not comfortable responding to your request.",
        "I'm afraid I can't offer any advice on this topic.",
        "I can't provide medical advice, so please see a doctor.",
    ],
)
def test_refusals_are_found(text: str) -> None:
    assert is_refusal(text)


@pytest.mark.parametrize(
    "text",
    [
        "I'm sorry that this has been so hard. What happened after he left?",
        "I can't imagine how heavy that must feel. What would help tonight?",
        "I can't tell you whether to leave; I can help you find out what you want.",
        "I'm so sorry to hear about your mother. You said you can't help crying.",
        "It sounds as if you cannot help thinking about it. When does it start?",
        "You say that you can't continue like this. Are you thinking of ending your life?",
        "What you describe would worry anyone. I will not judge you for it.",
        "I can't help but notice how tired you sound.",
        "I can't help wondering what that evening was like for you.",
        "I can\u2019t help him stop drinking, but I can stay with what it does to you.",
        "I'm so sorry you are carrying this. I won't give you easy answers, because there are none.",
        "I'm really sorry you're hurting. I can't answer for him, but I hear how much you want to know.",
        "I can't answer that question for you. What would your sister say?",
        "I'm sorry he left without a word. I can't offer you a reason, and I wish I could.",
        "I will not write off what you feel as a mood.",
        "I won't discuss that with your mother unless you wish it.",
        "I can't give you back those years. What did you miss most?",
        "I'm sorry they said that \"I can't help you\" at the desk. How did you get home?",
        "Leaving early was against the school guidelines, you say, and still you went to her.",
    ],
)
def test_replies_that_only_sound_like_refusals_are_not(text: str) -> None:
    assert not is_refusal(text)
