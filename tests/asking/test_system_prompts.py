"""Chat templates that refuse system messages: each command that sends one says so at once, and what it says to type works."""

import json
import shutil
from pathlib import Path

import pytest
from transformers import AutoTokenizer

from psychocounsel.asking import system_prompts
from psychocounsel.errors import USER_ERROR, UserError
from tests.support.chats import converse
from tests.support.harness import TINY, cli
from tests.support.in_process import run_here

GEMMA = (
    "{{ bos_token }}{% if messages[0]['role'] == 'system' %}{{ raise_exception('System role not supported') }}{% endif %}"
    "{% for message in messages %}{% if (message['role'] == 'user') != (loop.index0 % 2 == 0) %}"
    "{{ raise_exception('Conversation roles must alternate user/assistant/user/assistant/...') }}{% endif %}"
    "{{ '<|' + message['role'] + '|>' + message['content'] + '<|end|>' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|assistant|>' }}{% endif %}"
)
MISTRAL = GEMMA.replace(GEMMA[GEMMA.index("{% if messages") : GEMMA.index("{% for")], "")
ACCEPTS = (TINY / "chat_template.jinja").read_text()
_HEALTH = "evaluate evaluation=health against=[] model.path=GEMMA"
# Command line, the key of the refused model, and overrides that mend it, of which the answer names each.
_COMMANDS = [
    (
        "train model.path=GEMMA",
        "model.path",
        ["model.system_prompt=null", "model.chat_template=FILE"],
    ),
    (
        "train algo=ppo reward=local reward.path=GEMMA reward.system_prompt=Hi",
        "reward.path",
        ["reward.system_prompt=null", "reward.chat_template=FILE"],
    ),
    (
        "evaluate reward=local reward.path=GEMMA reward.system_prompt=Hi",
        "reward.path",
        ["reward.system_prompt=null", "reward.chat_template=FILE"],
    ),
    (_HEALTH, "model.path", ["replies.system_prompt=null", "+model.chat_template=FILE"]),
    (
        "evaluate evaluation=winrate model.path=builtin:tiny_dpo judge=tiny against=[GEMMA] replies.system_prompt=Hi",
        "against",
        ["replies.system_prompt=null", "'against=[{path: PATH, chat_template: FILE}]'"],
    ),
    (
        "evaluate evaluation=session model.path=builtin:tiny against=[] personas=played client=transformers client.model=GEMMA",
        "client.model",
        ["client.chat_template=FILE"],
    ),
    (
        "annotate speeches=sample annotator=rules writers=transformers writers.model=GEMMA writers.terms=apache-2.0",
        "writers.model",
        ["writers.chat_template=FILE"],
    ),
]


def model_with(template: str, folder: Path) -> Path:
    shutil.copytree(TINY, folder)
    (folder / "chat_template.jinja").write_text(template)
    return folder


@pytest.fixture
def gemma(tmp_path: Path) -> Path:
    return model_with(GEMMA, tmp_path / "gemma")


@pytest.mark.parametrize(("command", "key", "remedies"), _COMMANDS, ids=[command for command, *_ in _COMMANDS])
def test_a_refused_system_prompt_is_said_before_a_model_loads_and_each_remedy_works(
    command: str,
    key: str,
    remedies: list[str],
    gemma: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    own_environment: None,
) -> None:
    (tmp_path / "own.jinja").write_text(ACCEPTS)
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path / "here")
    if key == "reward.path":  # a language model would be refused as a reward model
        about = json.loads((gemma / "config.json").read_text())
        (gemma / "config.json").write_text(json.dumps(about | {"architectures": ["LlamaForSequenceClassification"]}))
    line = command.replace("GEMMA", str(gemma))
    refused = run_here(line)
    start = f"error: {key}={gemma}: its chat template refuses system messages (System role not supported); type "
    assert refused.code == USER_ERROR and refused.stderr.startswith(start), refused.stderr
    assert refused.stderr.count("\n") == 1
    assert not list((tmp_path / "here").iterdir())
    for remedy in remedies:
        assert remedy in refused.stderr
        typed = remedy.replace("FILE", str(tmp_path / "own.jinja")).replace("PATH", str(gemma))
        mended = run_here(f"{line} {typed}")
        assert mended.code == 0, mended.stderr


def test_prepare_refuses_as_the_job_would(gemma: Path, tmp_path: Path) -> None:
    done = cli("prepare", f"model.path={gemma}", cwd=tmp_path, check_code=USER_ERROR)
    assert f"error: model.path={gemma}: its chat template refuses system messages" in done.stderr


def test_a_conversation_is_refused_before_its_model_is_opened(gemma: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(UserError, match=r"^model.path=.*refuses system messages .* type replies.system_prompt=null"):
        converse(monkeypatch, "", f"model.path={gemma}")
    assert converse(monkeypatch, "", f"model.path={gemma}", "replies.system_prompt=null") == 0


def test_system_prompts_typed_in_a_conversation_are_refused_with_advice(
    gemma: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(
        UserError, match=r"refuses system messages \(System role not supported\): leave them out .*/system"
    ):
        converse(monkeypatch, "/system Be kind.\nHello.\n", f"model.path={gemma}", "replies.system_prompt=null")


_TEMPLATES = {
    "gemma": GEMMA,
    "mistral": MISTRAL,
    "shipped": ACCEPTS,
    "other refusals": "{% if tools is defined and tools %}{{ raise_exception('no tools') }}{% endif %}" + ACCEPTS,
    "marked replies": GEMMA.replace("{{ '<|' +", "{% generation %}{{ '<|' +").replace(
        "{% endfor %}", "{% endgeneration %}{% endfor %}"
    ),
    "refuses everybody": "{{ raise_exception('never') }}",
    "a name of its own": "{% if persona is not defined %}{{ raise_exception('no persona') }}{% endif %}" + GEMMA,
    "loop control": "{% for m in messages %}{% if m.role == 'user' %}{% continue %}{% endif %}{% if m.role == 'system' %}"
    "{{ raise_exception('no ' ~ m.role ~ ' on ' ~ strftime_now('%d')) }}{% endif %}{% endfor %}" + ACCEPTS,
}


@pytest.mark.parametrize("name", _TEMPLATES)
@pytest.mark.parametrize("persona", [None, "calm"])
def test_transformers_refuses_the_same_templates(name: str, persona: str | None) -> None:
    """The template is rendered here without transformers, which renders it in the run."""
    template, args = _TEMPLATES[name], {"persona": persona} if persona else {}
    tokenizer = AutoTokenizer.from_pretrained(TINY)
    user, system = {"role": "user", "content": "I can't sleep."}, {"role": "system", "content": "Be kind."}

    def renders(messages: list[dict[str, str]]) -> bool:
        try:
            tokenizer.apply_chat_template(
                messages, chat_template=template, tokenize=False, add_generation_prompt=True, **args
            )
        except Exception:
            return False
        return True

    expected = renders([user]) and not renders([system, user])
    assert (system_prompts._refusal(template, json.dumps(args)) is not None) == expected


def test_a_template_inside_the_tokenizers_settings_is_read(gemma: Path) -> None:
    (gemma / "chat_template.jinja").unlink()
    file = gemma / "tokenizer_config.json"
    for form in (GEMMA, [{"name": "tool_use", "template": ACCEPTS}, {"name": "default", "template": GEMMA}]):
        file.write_text(json.dumps({**json.loads(file.read_text()), "chat_template": form}))
        assert system_prompts._template_in(gemma) == GEMMA
