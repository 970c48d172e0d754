"""One reward per reply, however it is computed: our scorer, plain transformers, packed or padded, both checkpoint formats."""

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import AutoModelForSequenceClassification, AutoTokenizer

from psychocounsel.data.batch import build_batch
from psychocounsel.errors import UserError
from psychocounsel.model.packed import RewardModel
from psychocounsel.reward.local_model import LocalScorer
from tests.support.harness import ARCHITECTURES, ROOT, TINY, cli, metrics_of, random_groups, small_lm

PROMPTS = ["I feel so alone since the move.", "He shouts. Then he cries, and I hold him.", "Nothing."]
REPLIES = [
    "What is it like when the evening comes?",
    "Stop.",
    "You deserve rest, and you are not to blame for any of it.",
]
CONVERSATIONS: list[list[dict[str, str]]] = [
    [{"role": "user", "content": prompt}, {"role": "assistant", "content": reply}]
    for prompt in PROMPTS
    for reply in REPLIES
] + [
    [
        {"role": "user", "content": "Hello."},
        {"role": "assistant", "content": "Hello. What brings you here?"},
        {"role": "user", "content": PROMPTS[0]},
        {"role": "assistant", "content": REPLIES[0]},
    ]
]


@pytest.fixture(scope="module")
def reward_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return an exported reward model after a few training steps."""
    folder = tmp_path_factory.mktemp("reward")
    settings = ["algo=reward", "max_steps=4", "global_batch_size=8", "data.limit=64", "eval.limit=20", "eval.every=0"]
    cli("train", *settings, "run_dir=run", cwd=folder)
    return folder / "run" / "model"


def plain_scores(folder: Path, side: str) -> np.ndarray:
    """Return scores as another project would compute them: Auto classes, chat template, padding on one side, one batch."""
    tokenizer = AutoTokenizer.from_pretrained(folder)
    tokenizer.padding_side = side
    model = AutoModelForSequenceClassification.from_pretrained(folder)
    assert model.config.num_labels == 1
    texts = [tokenizer.apply_chat_template(conversation, tokenize=False) for conversation in CONVERSATIONS]
    batch = tokenizer(texts, padding=True, add_special_tokens=False, return_tensors="pt")
    with torch.no_grad():
        return model(**batch).logits[:, 0].numpy()


def test_scorer_and_plain_transformers_agree_whatever_the_padding(reward_folder: Path) -> None:
    left, right = plain_scores(reward_folder, "left"), plain_scores(reward_folder, "right")
    ours = LocalScorer.load(str(reward_folder)).score(CONVERSATIONS)
    assert ours.shape == (len(CONVERSATIONS),)
    assert np.ptp(ours) > 0.05  # otherwise equal scores would prove nothing
    np.testing.assert_allclose(left, ours, atol=2e-5)
    np.testing.assert_allclose(right, ours, atol=2e-5)


def test_scores_do_not_depend_on_company_and_order(reward_folder: Path) -> None:
    scorer = LocalScorer.load(str(reward_folder))
    together = scorer.score(CONVERSATIONS)
    alone = np.concatenate([scorer.score([conversation]) for conversation in CONVERSATIONS])
    small = LocalScorer.load(str(reward_folder), micro_batch_tokens=40).score(CONVERSATIONS[::-1])[::-1]
    np.testing.assert_allclose(alone, together, atol=2e-5)
    np.testing.assert_allclose(small, together, atol=2e-5)
    assert scorer.score([]).shape == (0,)


@pytest.mark.parametrize("kind", [kind for kind in ARCHITECTURES if kind != "gemma3_text"])
@pytest.mark.parametrize("attention", ["dense", "varlen"])
def test_packed_equals_separate_sequences(kind: str, attention: str) -> None:
    if attention == "varlen" and kind == "gemma2":
        pytest.skip("capped scores, refused")
    lm = small_lm(kind, rewards=True, pad_token_id=0)
    groups = random_groups(5, completions=3)
    for group in groups:  # no sequence may end with the padding token
        group.prompt_ids[group.prompt_ids == 0] = 1
        for completion in group.completions:
            completion.ids[completion.ids == 0] = 1
    with torch.no_grad():
        model = RewardModel(lm, kind, attention=attention)
        packed = model(build_batch([groups] if model.attention.one_row else [groups[:3], groups[3:]]))
        lm.set_attn_implementation("eager")
        sequences = [np.concatenate([group.prompt_ids, c.ids]) for group in groups for c in group.completions]
        alone = [lm(input_ids=torch.from_numpy(ids.astype(np.int64))[None]).logits[0, 0].item() for ids in sequences]
    assert packed.tolist() == pytest.approx(alone, rel=1e-4, abs=1e-5)


def test_config_keeps_mean_and_std_of_the_held_out_rewards(reward_folder: Path) -> None:
    config = json.loads((reward_folder / "config.json").read_text())
    last = metrics_of(reward_folder.parent)[-1]
    assert (config["mean"], config["std"]) == (last["eval/reward_mean"], last["eval/reward_std"])
    assert len(config["id2label"]) == 1
    raw = LocalScorer.load(str(reward_folder)).score(CONVERSATIONS)
    normalised = LocalScorer.load(str(reward_folder), normalise=True).score(CONVERSATIONS)
    np.testing.assert_allclose(normalised, (raw - config["mean"]) / config["std"], atol=1e-5)


# -- OpenRLHF's format: the trunk, and a head that the config names


def as_openrlhf(source: Path, folder: Path, head: str) -> Path:
    """Save the model as OpenRLHF does: no labels, no padding token in the config, its own architecture name."""
    shutil.copytree(source, folder)
    config = json.loads((folder / "config.json").read_text())
    for key in ("id2label", "label2id", "pad_token_id", "num_labels"):
        config.pop(key, None)
    config |= {"architectures": ["RewardModel"], "value_head_prefix": head, "normalize_reward": True}
    (folder / "config.json").write_text(json.dumps(config))
    weights = load_file(folder / "model.safetensors")
    weights[f"{head}.weight"] = weights.pop("score.weight")
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})
    return folder


@pytest.mark.parametrize("head", ["value_head", "score"])
def test_openrlhf_checkpoint_scores_the_same(head: str, reward_folder: Path, tmp_path: Path) -> None:
    folder = as_openrlhf(reward_folder, tmp_path / "theirs", head)
    ours, theirs = (LocalScorer.load(str(path)).score(CONVERSATIONS) for path in (reward_folder, folder))
    np.testing.assert_array_equal(ours, theirs)
    np.testing.assert_array_equal(
        LocalScorer.load(str(reward_folder), normalise=True).score(CONVERSATIONS),
        LocalScorer.load(str(folder), normalise=True).score(CONVERSATIONS),
    )


def test_openrlhf_reads_the_reward_at_the_last_attended_token(reward_folder: Path, tmp_path: Path) -> None:
    """This holds even if padding and end of turn are one token (Llama-3): the attention mask decides, not the ids."""
    folder = as_openrlhf(reward_folder, tmp_path / "theirs", "value_head")
    tokenizer = AutoTokenizer.from_pretrained(folder)
    tokenizer.pad_token = tokenizer.eos_token
    tokenizer.save_pretrained(folder)
    ours = LocalScorer.load(str(reward_folder)).score(CONVERSATIONS)
    np.testing.assert_allclose(LocalScorer.load(str(folder)).score(CONVERSATIONS), ours, atol=2e-5)


@pytest.mark.slow
def test_a_template_that_writes_on_after_the_end_token_is_read_as_transformers_does(tmp_path: Path) -> None:
    """ChatML ends a turn with the end token and a newline; the score is read at the newline."""
    tokenizer = AutoTokenizer.from_pretrained(TINY)
    tokenizer.pad_token = tokenizer.eos_token  # as in SmolLM2; another special token must replace it
    tokenizer.chat_template = (
        "{{ bos_token }}{% for m in messages %}{{ '<|' + m['role'] + '|>' + m['content'] + '<|end|>\\n' }}{% endfor %}"
        "{% if add_generation_prompt %}{{ '<|assistant|>' }}{% endif %}"
    )
    small_lm(vocab_size=len(tokenizer), max_position_embeddings=2048).save_pretrained(tmp_path / "base")
    tokenizer.save_pretrained(tmp_path / "base")
    settings = [
        "algo=reward",
        "max_steps=3",
        "data.limit=32",
        "eval.limit=8",
        "algo.lr=1e-2",
        "run_dir=run",
    ]
    cli("train", *settings, "model=local", "model.path=base", "model.system_prompt=null", cwd=tmp_path)
    folder = tmp_path / "run" / "model"
    ours = LocalScorer.load(str(folder)).score(CONVERSATIONS)
    assert np.ptp(ours) > 0.01
    for side in ("left", "right"):
        np.testing.assert_allclose(plain_scores(folder, side), ours, atol=2e-5)


def test_a_reward_model_is_no_policy(reward_folder: Path, tmp_path: Path) -> None:
    """Its tied embeddings could silently serve as an output layer."""
    result = cli("train", "debug=fast", f"model.path={reward_folder}", cwd=tmp_path, check_code=2)
    assert "is a reward model, not a language model" in result.stderr


def spoil(folder: Path, change: Any) -> None:
    weights = load_file(folder / "model.safetensors")
    change(weights)
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda weights: weights.pop("score.weight"), "has no reward head"),
        (lambda weights: weights.update({"score.weight": torch.zeros(2, 192)}), "the shapes of its weights or head"),
        (lambda weights: weights.update({"v_head.weight": weights.pop("score.weight")}), "has no reward head"),
        (lambda weights: weights.pop("model.norm.weight"), "lacks 1 of its weights"),
    ],
    ids=["missing", "two labels", "another name", "incomplete trunk"],
)
def test_a_wrong_head_is_an_error_and_never_random(
    change: Any, message: str, reward_folder: Path, tmp_path: Path
) -> None:
    shutil.copytree(reward_folder, tmp_path / "model")
    spoil(tmp_path / "model", change)
    with pytest.raises(UserError, match=message):
        LocalScorer.load(str(tmp_path / "model"))


def test_a_spoiled_reward_model_cannot_be_trained_on_either(reward_folder: Path, tmp_path: Path) -> None:
    shutil.copytree(reward_folder, tmp_path / "model")
    spoil(tmp_path / "model", lambda weights: weights.pop("score.weight"))
    result = cli("train", "algo=reward", "debug=fast", "model.path=model", cwd=tmp_path, check_code=2)
    assert "has no reward head named score or value_head" in result.stderr


def test_what_is_no_reward_model_is_refused() -> None:
    with pytest.raises(UserError, match="is a language model, not a reward model"):
        LocalScorer.load(str(TINY))


def test_bad_conversations_are_named(reward_folder: Path) -> None:
    scorer = LocalScorer.load(str(reward_folder), max_length=30)
    with pytest.raises(UserError, match="conversation 1: does not end with a reply"):
        scorer.score([CONVERSATIONS[0][:2], CONVERSATIONS[0][:1]])
    with pytest.raises(UserError, match="conversation 0: has .* tokens"):
        scorer.score([CONVERSATIONS[-1]])


def test_margin_needs_ratings(tmp_path: Path) -> None:
    row = {"prompt": "a", "chosen": "b", "rejected": "c"}
    (tmp_path / "rows.jsonl").write_text("".join(json.dumps({**row, "prompt": f"a{n}"}) + "\n" for n in range(20)))
    settings = ["algo=reward", "data=local", "data.path=rows.jsonl", "algo.margin=1"]
    result = cli("train", *settings, cwd=tmp_path, check_code=2)
    assert "rows lack ratings" in result.stderr


@pytest.mark.parametrize("head", [pytest.param("score", marks=pytest.mark.slow), "value_head"])
def test_reward_training_goes_on_from_a_reward_model(head: str, reward_folder: Path, tmp_path: Path) -> None:
    """The head is kept: the first evaluation equals that of the initial model. The saved model has our format again."""
    folder = reward_folder if head == "score" else as_openrlhf(reward_folder, tmp_path / "theirs", head)
    settings = ["algo=reward", "max_steps=1", "global_batch_size=4", "data.limit=64", "eval.limit=20", "algo.lr=1e-6"]
    cli("train", *settings, f"model.path={folder}", f"run_dir={tmp_path}/run", cwd=ROOT)
    before, first = metrics_of(reward_folder.parent)[-1], metrics_of(tmp_path / "run")[0]
    assert first["eval/auc"] == before["eval/auc"]
    assert "score.weight" in load_file(tmp_path / "run" / "model" / "model.safetensors")
    assert first["eval/reward_mean"] == pytest.approx(before["eval/reward_mean"], rel=1e-5)
