"""Chat templates of the supported model families: extent of the prompt, end of the reply, and rejected templates."""

import datetime
import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors
from transformers import AutoTokenizer, PreTrainedTokenizerFast
from transformers.utils import chat_template_utils

from psychocounsel import api
from psychocounsel.data.group import Group
from psychocounsel.data.messages import Message
from psychocounsel.data.rows import Example, every_turn, parse_row
from psychocounsel.data.tokenise import ChatFormat, join_turns, tokenise
from psychocounsel.errors import UserError
from psychocounsel.model.tokenizer import load_chat_format
from tests.support.harness import TINY

SPECIAL = ["<|pad|>", "<s>", "</s>", "<|im_start|>", "<|im_end|>", "<|header|>", "<|end_header|>", "<|eot|>"]

CHATML = (
    "{% for m in messages %}{{ '<|im_start|>' + m['role'] + '\n' + m['content'] + '<|im_end|>' + '\n' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
)
DEFAULT_SYSTEM = (
    "{% if messages[0]['role'] != 'system' %}{{ '<|im_start|>system\nYou are helpful.<|im_end|>\n' }}{% endif %}"
) + CHATML
THINKING = CHATML.replace(
    "{{ '<|im_start|>assistant\n' }}",
    "{{ '<|im_start|>assistant\n' }}{% if enable_thinking is false %}{{ '<think>\n\n</think>\n\n' }}{% endif %}",
).replace(
    "m['role'] + '\n' +",
    "m['role'] + '\n' + ('<think>\n\n</think>\n\n' if loop.last and m['role'] == 'assistant' else '') +",
)
LLAMA = (
    "{{ bos_token }}{{ '<|header|>system<|end_header|>\n\nToday Date: ' + DATE + '<|eot|>' }}{% for m in messages %}"
    "{{ '<|header|>' + m['role'] + '<|end_header|>\n\n' + m['content'] | trim + '<|eot|>' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|header|>assistant<|end_header|>\n\n' }}{% endif %}"
)
STRFTIME = LLAMA.replace("DATE", "strftime_now('%d %b %Y')")
DATE_STRING = (
    "{% if date_string is not defined %}{% if strftime_now is defined %}{% set date_string = strftime_now('%d %b %Y') %}"
    "{% else %}{% set date_string = '26 Jul 2024' %}{% endif %}{% endif %}"
) + LLAMA.replace("DATE", "date_string")
MISTRAL = (
    "{{ bos_token }}{% for m in messages %}{% if m['role'] == 'user' %}{{ '[INST] ' + m['content'] + ' [/INST]' }}"
    "{% elif m['role'] == 'system' %}{{ raise_exception('System role not supported') }}"
    "{% else %}{{ ' ' + m['content'] + eos_token }}{% endif %}{% endfor %}"
)


def tokenizer(template: str | None, bos: str | None = "<s>", eos: str = "</s>", adds_bos: bool = False) -> Any:
    """Return a tokenizer of bytes and special tokens; with `adds_bos` it adds BOS to plain text, as Llama's does."""
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    inner = Tokenizer(models.BPE({token: index for index, token in enumerate([*SPECIAL, *alphabet])}, []))
    inner.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    inner.decoder = decoders.ByteLevel()
    if adds_bos and bos:
        inner.post_processor = processors.TemplateProcessing(
            single=f"{bos} $A", special_tokens=[(bos, SPECIAL.index(bos))]
        )
    names = {"bos_token": bos, "eos_token": eos, "pad_token": "<|pad|>"}
    fast = PreTrainedTokenizerFast(tokenizer_object=inner, additional_special_tokens=SPECIAL[3:], **names)
    fast.chat_template = template
    return fast


def chat_of(
    template: str | None, args: dict[str, Any] | None = None, system_prompt: str | None = None, **options: Any
) -> ChatFormat:
    return ChatFormat(tokenizer(template, **options), args or {}, "org/model", system_prompt)


def example(*replies: str, prompt: str = "I can't sleep.", number: int = 1) -> Example:
    return Example(f"q{number}", f"rows.jsonl row {number}", [{"role": "user", "content": prompt}], list(replies))


def pair(chat: ChatFormat, **options: Any) -> Group:
    (group,) = tokenise([example("Since when?", "Hm.")], chat, "pairs", 512, **options)
    return group


def text_of(chat: ChatFormat, ids: np.ndarray) -> str:
    return chat.tokenizer.decode(ids, skip_special_tokens=False)


FAMILIES: dict[str, tuple[dict[str, Any], str, str]] = {
    # name: constructor, beginning of the prompt, end of a reply
    "llama3": ({"template": DATE_STRING, "adds_bos": True, "eos": "<|eot|>"}, "<s><|header|>system", "<|eot|>"),
    "mistral": ({"template": MISTRAL, "adds_bos": True}, "<s>[INST] ", "</s>"),
    "chatml": ({"template": CHATML, "bos": None, "eos": "<|im_end|>"}, "<|im_start|>user\n", "<|im_end|>"),
    "smollm2": (
        {"template": DEFAULT_SYSTEM, "bos": "<|im_start|>", "eos": "<|im_end|>"},
        "<|im_start|>system\nYou are helpful.<|im_end|>\n<|im_start|>user\n",
        "<|im_end|>",
    ),
    "qwen3": (
        {"template": THINKING, "bos": None, "eos": "<|im_end|>", "args": {"enable_thinking": False}},
        "<|im_start|>user\n",
        "<|im_end|>",
    ),
}


@pytest.mark.parametrize("family", FAMILIES)
def test_prompt_and_reply_of_each_family(family: str) -> None:
    options, beginning, end = FAMILIES[family]
    chat = chat_of(**options)
    group = pair(chat)
    assert text_of(chat, group.prompt_ids).startswith(beginning)
    assert text_of(chat, group.prompt_ids) == group.prompt_text
    assert "I can't sleep." in group.prompt_text
    for completion, reply in zip(group.completions, ("Since when?", "Hm."), strict=True):
        assert completion.text == reply
        assert text_of(chat, completion.ids).strip() == f"{reply}{end}"  # nothing follows the end token
        assert completion.ids.dtype == group.prompt_ids.dtype == np.int32
        whole = [*group.prompt_ids, *completion.ids]
        rendered = chat.render([{"role": "user", "content": "I can't sleep."}], reply)
        assert text_of(chat, np.array(whole)) == rendered.text.rstrip("\n")
    assert chat.end_tokens == {chat.tokenizer.convert_tokens_to_ids(end)}
    if options.get("adds_bos"):
        assert (group.prompt_ids == chat.bos).sum() == 1


def test_the_shipped_tokenizer() -> None:
    chat = ChatFormat(AutoTokenizer.from_pretrained(TINY), {}, "tiny")
    group = pair(chat)
    assert (group.prompt_ids == chat.tokenizer.bos_token_id).sum() == 1
    assert all(completion.ids[-1] == chat.tokenizer.eos_token_id for completion in group.completions)


def test_many_rows_are_as_one_at_a_time(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("psychocounsel.data.tokenise._BLOCK", 4)
    chat = ChatFormat(AutoTokenizer.from_pretrained(TINY), {}, "tiny")
    data = [example(f"Why {n}?" * (n % 5 + 1), "No.", prompt=f"speech {n // 2}", number=n) for n in range(11)]
    together = tokenise(data, chat, "pairs", 512)
    alone = [group for each in data for group in tokenise([each], chat, "pairs", 512)]
    assert [group.id for group in together] == [each.id for each in data]
    for first, second in zip(together, alone, strict=True):
        assert first.prompt_ids.tolist() == second.prompt_ids.tolist()
        assert [c.ids.tolist() for c in first.completions] == [c.ids.tolist() for c in second.completions]


def test_a_reply_ends_with_its_turn_and_not_with_the_conversation(tmp_path: Path) -> None:
    """Phi-3's template closes a turn, and at the very end the conversation; the model writes the first of both tokens."""
    template = CHATML + "{% if not add_generation_prompt %}{{ eos_token }}{% endif %}"
    chat = chat_of(template, bos=None)
    ids = pair(chat).completions[0].ids
    assert text_of(chat, ids) == "Since when?<|im_end|>"
    turn = chat.tokenizer.convert_tokens_to_ids("<|im_end|>")
    assert chat.ends() == [turn]
    shutil.copytree(TINY, tmp_path / "model")
    (tmp_path / "model" / "generation_config.json").write_text(json.dumps({"eos_token_id": [2, 0]}))
    model = api.compose(["model=local", f"model.path={tmp_path / 'model'}", "algo.lr=1e-4"]).model
    assert load_chat_format(model)[1].ends() == [0, 2]
    for content, ends in (('{"eos_token_id": ["x", 2]}', [2]), ('{"eos_token_id": null}', [2])):
        (tmp_path / "model" / "generation_config.json").write_text(content)
        assert load_chat_format(model)[1].ends() == ends
    for content in ("[3]", "{"):
        (tmp_path / "model" / "generation_config.json").write_text(content)
        with pytest.raises(UserError, match=r"generation_config.json(:)? is not"):
            load_chat_format(model)
    chat.keep_tail = True
    assert text_of(chat, pair(chat).completions[0].ids) == "Since when?<|im_end|>\n</s>"


# -- rejected templates


def doubled(template: str) -> str:
    return template.replace("{{ bos_token }}", "{{ bos_token }}{{ bos_token }}")


BROKEN: dict[str, tuple[dict[str, Any], str]] = {
    "no template": ({"template": None}, "has no chat template"),
    "several templates without a default": (
        {"template": {"rag": MISTRAL, "tools": MISTRAL}},
        r"has several chat templates \(rag, tools\) and no default; give model.chat_template=FILE.jinja",
    ),
    "prefix broken by the reply's header": (
        {
            "template": MISTRAL.replace(
                "{% endfor %}", "{% endfor %}{% if add_generation_prompt %}Therapist:{% endif %}"
            )
        },
        "does not keep the prompt as a prefix",
    ),
    "prefix broken by thinking": (
        {"template": THINKING.replace("loop.last", "false"), "bos": None, "args": {"enable_thinking": False}},
        "does not keep the prompt as a prefix",
    ),
    "BOS twice": ({"template": doubled(MISTRAL), "adds_bos": True}, "begins a prompt with 2 BOS tokens instead of one"),
    "BOS twice, not added to plain text": (
        {"template": doubled(MISTRAL)},
        "begins a prompt with 2 BOS tokens instead of one",
    ),
    "BOS in every turn": (
        {"template": MISTRAL.replace("{{ '[INST] '", "{{ bos_token + '[INST] '"), "adds_bos": True},
        "begins a prompt with 2 BOS tokens instead of one",
    ),
    "no BOS": (
        {"template": MISTRAL.replace("{{ bos_token }}", ""), "adds_bos": True},
        "begins a prompt with 0 BOS tokens instead of one",
    ),
    "no end token": ({"template": MISTRAL.replace(" + eos_token", "")}, "does not end a reply with a special token"),
    "a header but no end": (
        {
            "template": CHATML.replace("<|im_end|>", "").replace("{% if add_generation_prompt %}", "{% if false %}"),
            "bos": None,
        },
        "does not end a reply with a special token",
    ),
}


@pytest.mark.parametrize("name", BROKEN)
def test_a_template_that_cannot_be_right_is_refused_by_the_models_name(name: str) -> None:
    options, message = BROKEN[name]
    with pytest.raises(UserError, match=message) as caught:
        pair(chat_of(**options))
    assert str(caught.value).startswith(
        "rows.jsonl row 1: org/model: " if isinstance(options["template"], str) else "org/model: "
    )
    assert "model.chat_template=FILE.jinja" in str(caught.value)


def test_a_template_may_write_bos_before_each_turn() -> None:
    chat = chat_of(
        MISTRAL.replace("{{ bos_token }}", "").replace("{{ '[INST] '", "{{ bos_token + '[INST] '"), adds_bos=True
    )
    talk = example("Since when?", "Hm.")
    talk.prompt = [*talk.prompt, {"role": "assistant", "content": "Why?"}, {"role": "user", "content": "The baby."}]
    (group,) = tokenise([talk], chat, "pairs", 512)
    assert text_of(chat, group.prompt_ids) == "<s>[INST] I can't sleep. [/INST] Why?</s><s>[INST] The baby. [/INST]"


def test_a_row_that_cannot_be_encoded_is_named_or_dropped() -> None:
    chat = chat_of(MISTRAL.replace("+ eos_token", "+ (eos_token if m['content'] != 'endless' else '')"))
    data = [example("yes", "no", number=number) for number in range(3)]
    data.insert(1, example("endless", "no", number=7))
    with pytest.raises(UserError, match=r"^rows.jsonl row 7: org/model: its chat template does not end a reply"):
        tokenise(data, chat, "pairs", 512)
    said: list[str] = []
    kept = tokenise(data, chat, "pairs", 512, drop_bad=True, report=said.append)
    assert [group.id for group in kept] == ["q0", "q1", "q2"]
    assert said[0] == "warning: chat template: 1 bad row dropped (data.bad_rows=drop)" and "row 7" in said[1]


def test_a_reply_that_spells_an_end_token_does_not_stand_in_for_one() -> None:
    chat = chat_of(MISTRAL.replace(" + eos_token", ""))
    with pytest.raises(UserError, match="does not end a reply"):
        tokenise([example("Say </s> now.", "No.")], chat, "pairs", 512)


def test_a_conversation_that_the_template_refuses_names_model_and_row() -> None:
    with pytest.raises(UserError) as caught:
        pair(chat_of(MISTRAL, system_prompt="Be kind."))
    assert str(caught.value) == (
        "rows.jsonl row 1: org/model: its chat template refuses system messages (System role not supported): leave them out "
        "(model.system_prompt=null; of the rows, replies.system_prompt or /system), or give a template that accepts them "
        "(chat_template=FILE beside the model's path)"
    )


# -- dates


def set_clock(monkeypatch: pytest.MonkeyPatch, year: int, month: int, day: int) -> None:
    class Clock(datetime.datetime):
        @classmethod
        def now(cls, tz: datetime.tzinfo | None = None) -> "Clock":
            return cls(year, month, day)

    monkeypatch.setattr(chat_template_utils, "datetime", Clock)


@pytest.mark.parametrize("template", [STRFTIME, DATE_STRING])
@pytest.mark.parametrize("args", [{}, {"date_string": "01 Jan 2020"}])
def test_rendering_on_two_dates_is_equal(template: str, args: dict[str, Any], monkeypatch: pytest.MonkeyPatch) -> None:
    plain, groups = [], []
    chat = chat_of(template, args)
    for date in ((2024, 1, 2), (2031, 12, 30)):
        set_clock(monkeypatch, *date)
        messages: list[Message] = [{"role": "user", "content": "I can't sleep."}]
        plain.append(chat.tokenizer.apply_chat_template(messages, tokenize=False))
        groups.append(pair(chat))
    assert plain[0] != plain[1]  # plain rendering uses today's date
    assert "02 Jan 2024" in plain[0]
    assert groups[0].prompt_text == groups[1].prompt_text
    assert groups[0].prompt_ids.tolist() == groups[1].prompt_ids.tolist()
    expected = args.get("date_string", "26 Jul 2024") if template is DATE_STRING else "26 Jul 2024"
    assert f"Today Date: {expected}" in groups[0].prompt_text


@pytest.mark.parametrize("form", ["%d %b %Y", "%Y-%m-%d", "%B %-d, %y", "%A, %e %B", "%F %H:%M:%S", "%a %j %I %p"])
def test_every_form_of_the_date_is_of_the_fixed_date(form: str) -> None:
    template = "{% set form = FORM %}{% macro day() %}{{ strftime_now(form) }}{% endmacro %}".replace(
        "FORM", repr(form)
    )
    chat = chat_of(template + MISTRAL + "{{ day() }}")
    assert chat.render([{"role": "user", "content": "Hm."}]).text.endswith(
        datetime.datetime(2024, 7, 26).strftime(form)
    )


@pytest.mark.parametrize(
    "start", ["", "\n", "\n\n", "  ", "  {% if true %}\n  {% endif %}\n", "{# note #}\n", "{{- 'x' }}"]
)
def test_the_fixed_date_changes_nothing_else(start: str) -> None:
    chat = chat_of(start + MISTRAL)
    messages: list[Message] = [{"role": "user", "content": "Hm."}]
    assert chat.render(messages).text == chat.tokenizer.apply_chat_template(messages, tokenize=False)


# -- lengths, duplicates, system prompts

LONG, LONGER = "a" * 60, "a" * 80


def lengths(max_length: int, too_long: str = "drop", **options: Any) -> tuple[list[Group], list[str]]:
    """Return groups of four rows: short, with long replies, with replies that begin alike, with a long prompt."""
    said: list[str] = []
    data = [
        example("b", "c", number=1),
        example(LONG, "c", number=2),
        example(LONG, LONGER, number=3),
        example("b", "c", prompt="p" * 200, number=4),
    ]
    return tokenise(data, chat_of(MISTRAL), "pairs", max_length, too_long=too_long, report=said.append, **options), said


def test_rows_that_fit_are_kept_without_a_word() -> None:
    groups, said = lengths(512)
    assert (len(groups), said) == (4, [])


def test_the_limit_is_exact() -> None:
    groups, _ = lengths(512)
    size = len(groups[1].prompt_ids) + max(len(completion.ids) for completion in groups[1].completions)
    assert "q2" in [group.id for group in lengths(size)[0]]
    assert "q2" not in [group.id for group in lengths(size - 1)[0]]


def test_rows_too_long_are_dropped_and_counted() -> None:
    groups, said = lengths(70)
    assert [group.id for group in groups] == ["q1"]
    assert sorted(said) == [
        "1 of 4 rows dropped (prompt too long)",
        "2 of 4 rows dropped (longer than max_length=70; data.too_long=shorten cuts them)",
    ]


def test_rows_too_long_are_shortened_and_counted() -> None:
    groups, said = lengths(70, "shorten")
    assert [group.id for group in groups] == ["q1", "q2"]
    long, short = groups[1].completions
    assert len(groups[1].prompt_ids) + len(long.ids) == 70
    assert long.ids[-1] != short.ids[-1]  # only the long reply has lost its end token
    assert sorted(said) == [
        "1 of 4 rows dropped (prompt too long)",
        "1 of 4 rows dropped (their replies are the same once shortened)",
        "1 of 4 rows shortened to max_length",
    ]


def test_prompts_have_a_limit_of_their_own() -> None:
    prompt = len(lengths(512)[0][0].prompt_ids)
    assert len(lengths(512, max_prompt_length=prompt)[0]) == 3
    assert lengths(512, max_prompt_length=prompt - 1) == ([], ["4 of 4 rows dropped (prompt too long)"])


def test_demonstrations_take_the_first_reply_once() -> None:
    said: list[str] = []
    data = [
        example("yes", "no", number=1),
        example("yes", "never", number=2),
        example("perhaps", "no", number=3),
        example("yes", "no", prompt="Another.", number=4),
    ]
    groups = tokenise(data, chat_of(MISTRAL), "completions", 512, report=said.append)
    assert [(group.id, [c.text for c in group.completions]) for group in groups] == [
        ("q1", ["yes"]),
        ("q3", ["perhaps"]),
        ("q4", ["yes"]),
    ]
    assert said == ["1 of 4 rows dropped (their prompt and reply repeat an earlier row)"]
    assert len(tokenise(data, chat_of(MISTRAL), "pairs", 512, report=said.append)) == 4


def test_a_pair_needs_two_replies() -> None:
    with pytest.raises(UserError, match=r"^rows.jsonl row 1: has only one reply, not a pair; use algo=sft"):
        tokenise([example("yes")], chat_of(MISTRAL), "pairs", 512)


# Thinking: the template's own form of it, whatever the tags are in the tokenizer.

REASONING = (  # like Qwen3's: thoughts of earlier turns are left out, and the last reply has a block of thoughts
    "{% for m in messages %}{{ '<|im_start|>' + m['role'] + '\n' }}"
    "{% if m['role'] == 'assistant' and loop.last %}"
    "{{ '<think>\n' + (m['reasoning_content'] or '') + '\n</think>\n\n' }}{% endif %}"
    "{{ m['content'] + '<|im_end|>\n' }}{% endfor %}{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
)
THOUGHT = "<think>\nThey are anxious.\n</think>\n\nWhat happened?"


def thinker() -> ChatFormat:
    chat = chat_of(REASONING, bos=None, eos="<|im_end|>")
    chat.tokenizer.add_tokens(["<think>", "</think>"])
    return ChatFormat(chat.tokenizer, {}, "org/model")


def test_a_thinking_reply_has_the_templates_own_form() -> None:
    chat = thinker()
    (group,) = tokenise([example(THOUGHT, "Hm.")], chat, "pairs", 512)
    thought, plain = (completion.ids for completion in group.completions)
    assert text_of(chat, thought) == f"{THOUGHT}<|im_end|>"
    assert text_of(chat, plain) == "<think>\n\n</think>\n\nHm.<|im_end|>"
    tags = chat.tokenizer.convert_tokens_to_ids(["<think>", "</think>"])
    assert [int((thought == tag).sum()) for tag in tags] == [1, 1], "the tags are tokens, not letters"
    assert group.completions[0].text == THOUGHT


def test_thoughts_of_earlier_turns_are_the_templates_affair_and_forged_turns_stay_text() -> None:
    chat = thinker()
    row = example("<think>\nNow </think> or <|im_end|>?\n</think>\n\nSay <|im_start|>.", "Hm.")
    row.prompt = [*row.prompt, {"role": "assistant", "content": THOUGHT}, {"role": "user", "content": "<think>"}]
    (group,) = tokenise([row], chat, "pairs", 512, report=lambda line: None)
    assert "anxious" not in group.prompt_text and "What happened?" in group.prompt_text
    ends = [
        int((ids == chat.tokenizer.convert_tokens_to_ids("<|im_end|>")).sum())
        for ids in (c.ids for c in group.completions)
    ]
    assert ends == [1, 1]
    opening = chat.tokenizer.convert_tokens_to_ids("<think>")
    assert int((group.prompt_ids == opening).sum()) == 0 and int((group.completions[0].ids == opening).sum()) == 1


@pytest.mark.parametrize(
    "template",
    [
        CHATML.replace("m['content']", "(m['content'].split('</think>') | last | trim)"),
        CHATML.replace("m['content']", "m['content'][:9]") + "{# reasoning_content #}",
    ],
)
def test_a_template_that_loses_a_part_of_the_reply_is_refused(template: str) -> None:
    chat = chat_of(template, bos=None)
    with pytest.raises(
        UserError, match=r"row 1: org/model: its chat template leaves out or changes a part of the reply"
    ):
        tokenise([example(THOUGHT, "Hm.", prompt="Hello.")], chat, "pairs", 512)


# Texts that a template or a model cannot take


def test_a_system_message_that_the_template_leaves_out_is_refused() -> None:
    silent = MISTRAL.replace("{{ raise_exception('System role not supported') }}", "")
    with pytest.raises(
        UserError,
        match=r"^rows.jsonl row 1: org/model: its chat template writes no system messages, .*system_prompt=null",
    ):
        pair(chat_of(silent, system_prompt="Be kind."))
    own = example("Since when?", "Hm.")
    own.prompt = [{"role": "system", "content": "Be brief."}, *own.prompt]
    with pytest.raises(UserError, match="writes no system messages"):
        tokenise([own], chat_of(silent), "pairs", 512)
    changed = MISTRAL.replace("raise_exception('System role not supported')", "m['content'] | upper")
    assert "BE KIND." in pair(chat_of(changed, system_prompt="Be kind.")).prompt_text


def test_a_token_without_an_embedding_is_refused() -> None:
    chat = chat_of(MISTRAL)
    chat.vocabulary = len(chat.tokenizer)
    pair(chat)
    chat.vocabulary = 100
    with pytest.raises(UserError, match=r"org/model: its tokenizer has 264 tokens, and its model embeds 100"):
        pair(chat)


def test_a_padding_token_without_an_embedding_is_replaced(tmp_path: Path) -> None:
    shutil.copytree(TINY, tmp_path / "model")
    added = AutoTokenizer.from_pretrained(TINY)
    added.add_special_tokens({"pad_token": "<|added|>"})
    added.save_pretrained(tmp_path / "model")
    vocabulary = json.loads((TINY / "config.json").read_text())["vocab_size"]
    assert added.pad_token_id >= vocabulary
    model = api.compose(["model=local", f"model.path={tmp_path / 'model'}", "algo.lr=1e-4"]).model
    assert load_chat_format(model)[0].pad_token_id < vocabulary


def test_a_length_that_the_model_does_not_read_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"max_length=2049: .* reads at most 2048 tokens .*; use max_length=2048"):
        api.load_groups(api.compose(["max_length=2049"]))
    folder = tmp_path / "model"
    shutil.copytree(TINY, folder)
    config = json.loads((folder / "config.json").read_text())
    config["rope_parameters"] = {**config["rope_parameters"], "rope_type": "linear", "factor": 2.0}
    (folder / "config.json").write_text(json.dumps(config))
    longer = ["model=local", f"model.path={folder}", "algo.lr=1e-4", "data.limit=10", "micro_batch_tokens=8192"]
    api.load_groups(api.compose([*longer, "max_length=4096"]))
    with pytest.raises(UserError, match="reads at most 4096 tokens"):
        api.load_groups(api.compose([*longer, "max_length=4097"]))


def test_replies_with_the_same_tokens_are_no_pair() -> None:
    said: list[str] = []
    trims = chat_of(LLAMA.replace("DATE", "'today'"))
    data = [example("a b", "a b\u00a0"), example("a", "b", number=2)]
    assert [group.id for group in tokenise(data, trims, "pairs", 512, report=said.append)] == ["q2"]
    assert said == ["1 of 2 rows dropped (their replies are the same tokens)"]


def test_the_system_prompt_goes_where_there_is_none() -> None:
    chat = chat_of(CHATML, system_prompt="Be kind.", bos=None)
    assert pair(chat).prompt_text.startswith("<|im_start|>system\nBe kind.<|im_end|>\n")
    own = example("yes", "no")
    own.prompt = [{"role": "system", "content": "Be brief."}, *own.prompt]
    (group,) = tokenise([own], chat, "pairs", 512)
    assert group.prompt_text.startswith("<|im_start|>system\nBe brief.<|im_end|>\n<|im_start|>user\n")
    assert "Be kind." not in group.prompt_text


def test_turns_that_the_template_changes_are_not_trained_in_one_row() -> None:
    """A template that writes an empty think block before the last reply alone gives other tokens in one pass."""
    prompt: list[Message] = [
        {"role": "user", "content": "I can't sleep."},
        {"role": "assistant", "content": "Since when?"},
        {"role": "user", "content": "May."},
    ]
    talk = Example("a", "rows.jsonl row 1", prompt, ["What happened?"])
    keeps, changes = chat_of(CHATML, bos=None), chat_of(THINKING, {"enable_thinking": False}, bos=None)
    rows = {chat: join_turns(tokenise(every_turn(talk), chat, "completions", 512)) for chat in (keeps, changes)}
    assert [len(found) for found in rows.values()] == [1, 2]
    (reply,) = rows[keeps][0].completions
    assert text_of(keeps, reply.ids[reply.trained]) == "Since when?<|im_end|>What happened?<|im_end|>"
    assert reply.text == "Since when?\n\nWhat happened?"
    (first,) = prompt[:1]
    sides = [[*prompt[1:], {"role": "assistant", "content": said}] for said in ("What happened?", "Hm.")]
    session = parse_row({"prompt": [first], "chosen": sides[0], "rejected": [first, *sides[1]]}, "rows.jsonl row 2")
    (group,) = tokenise([session], keeps, "pairs", 512)
    assert [text_of(keeps, side.ids[side.trained]) for side in group.completions] == [
        f"Since when?<|im_end|>{said}<|im_end|>" for said in ("What happened?", "Hm.")
    ]
    with pytest.raises(
        UserError, match=r"^rows.jsonl row 2: org/model: its chat template changes or leaves out earlier"
    ):
        tokenise([session], changes, "pairs", 512)


def test_a_conversation_longer_than_the_limit_keeps_the_turns_that_fit() -> None:
    chat = chat_of(CHATML, bos=None)
    prompt: list[Message] = []
    for turn in range(4):
        prompt += [{"role": "user", "content": f"Day {turn}"}, {"role": "assistant", "content": "Since when?"}]
    talk = Example("a", "rows.jsonl row 1", prompt[:-1], ["What happened?"])
    (whole,) = join_turns(tokenise(every_turn(talk), chat, "completions", 512))
    said: list[str] = []
    (fitting,) = join_turns(tokenise(every_turn(talk), chat, "completions", whole.tokens - 1, report=said.append))
    assert [line.partition(";")[0] for line in said] == [
        f"1 of 4 rows dropped (longer than max_length={whole.tokens - 1}"
    ]
    assert text_of(chat, fitting.completions[0].ids[fitting.completions[0].trained]) == "Since when?<|im_end|>" * 3
    (cut,) = join_turns(
        tokenise(every_turn(talk), chat, "completions", whole.tokens - 1, too_long="shorten", report=said.append)
    )
    assert cut.tokens == whole.tokens - 1
