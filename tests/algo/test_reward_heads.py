"""`algo.heads=principles`: the loss of ratings against brute force, its figures, its refusals, and a model that learns it."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from transformers import AutoModelForSequenceClassification, AutoTokenizer

from psychocounsel.algo.base import Outputs
from psychocounsel.algo.reward import Reward
from psychocounsel.counsel.principles import PRINCIPLES
from psychocounsel.data.batch import build_batch
from psychocounsel.data.group import Group
from psychocounsel.engine.engines import load_model
from psychocounsel.errors import USER_ERROR, UserError
from psychocounsel.model.reward_head import unrated_names
from psychocounsel.reward.local_model import LocalReward, LocalScorer, among_rated
from psychocounsel.storage.files import read_json
from tests.reward.test_local_model import CONVERSATIONS
from tests.reward.test_servers import settled
from tests.support.harness import cli, metrics_of, random_groups

HEADS = Reward(heads="principles")


def rated_groups(count: int = 6) -> list[Group]:
    """Return pairs with random ratings, a third of which are not applicable."""
    rng, groups = np.random.default_rng(3), random_groups(count)
    for group in groups:
        group.weight = float(rng.uniform(0.5, 2))
        for reply in group.completions:
            ratings = rng.integers(1, 6, len(PRINCIPLES)).astype(np.float32)
            reply.ratings = np.where(rng.random(len(PRINCIPLES)) < 0.3, np.nan, ratings).astype(np.float32)
    return groups


def test_loss_and_gradient_are_those_of_the_formula() -> None:
    groups = rated_groups()
    replies = [(group.weight, reply.ratings) for group in groups for reply in group.completions]
    scores = torch.randn(len(replies), len(PRINCIPLES), dtype=torch.float64, requires_grad=True)
    term = HEADS.loss(Outputs(scores=scores), build_batch([groups]))["loss_ratings"]
    expected, gradient = 0.0, torch.zeros_like(scores)
    for row, (weight, ratings) in enumerate(replies):
        known = [place for place, rating in enumerate(ratings) if not np.isnan(rating)]
        for place in known:
            error = float(scores[row, place]) - float(ratings[place])
            expected += weight * error**2 / len(known)
            gradient[row, place] = weight * 2 * error / len(known)
    term.sum.backward()
    assert term.unit == "completions" and float(term.sum) == pytest.approx(expected)
    torch.testing.assert_close(scores.grad, gradient)


def test_replies_without_any_rating_are_refused() -> None:
    groups = rated_groups(2)
    HEADS.check(groups, [])
    groups[1].completions[1].ratings = np.full(len(PRINCIPLES), np.nan, np.float32)
    with pytest.raises(UserError, match="algo.heads=principles: rows lack ratings"):
        HEADS.check(groups, [])


def test_figures_of_each_principle() -> None:
    groups, rng = rated_groups(20), np.random.default_rng(1)
    scores = [rng.normal(3, 1, (2, len(PRINCIPLES))).astype(np.float32) for _ in groups]
    figures = HEADS.evaluation(groups, scores)
    for place, name in enumerate(PRINCIPLES):
        right, errors = [], []
        for group, pair in zip(groups, scores, strict=True):
            one, two = (float(reply.ratings[place]) for reply in group.completions)
            errors += [(score - rating) ** 2 for score, rating in zip(pair[:, place], (one, two), strict=True)]
            if one - two not in (0,) and not np.isnan(one - two):
                right.append((pair[0, place] > pair[1, place]) == (one > two))
        assert figures[f"accuracy_{name}"] == pytest.approx(np.mean(right))
        assert figures[f"error_{name}"] == pytest.approx(np.sqrt(np.nanmean(errors)))
    means = np.concatenate([pair.mean(1) for pair in scores])
    assert (figures["reward_mean"], figures["reward_std"]) == pytest.approx((means.mean(), means.std(ddof=1)))


# Principles that no row rates


def rating_only(*names: str, count: int = 40) -> list[Group]:
    """Return pairs whose replies are rated on the principles `names` alone, and some on none of them but one."""
    groups = rated_groups(count)
    for group in groups:
        for reply in group.completions:
            assert reply.ratings is not None
            reply.ratings = np.where([name in names for name in PRINCIPLES], 3.0, np.nan).astype(np.float32)
    return groups


UNRATED = [("safety",), ("safety", "clarity"), PRINCIPLES]


@pytest.mark.parametrize("rated", UNRATED, ids=len)
def test_a_principle_that_no_row_rates_has_no_weight_in_the_reward(rated: tuple[str, ...]) -> None:
    algorithm, rng = Reward(heads="principles"), np.random.default_rng(2)
    algorithm.check(rating_only(*rated), [])
    assert algorithm.unrated == tuple(name for name in PRINCIPLES if name not in rated)
    config = settled("algo=reward", "algo.heads=principles", name="train")
    model = load_model(config, algorithm, torch.float32, None)
    with torch.no_grad():  # training moves the rows of rated principles alone
        gradient = torch.from_numpy(rng.normal(size=model.lm.score.weight.shape)).float()
        model.lm.score.weight += gradient * torch.tensor([name in rated for name in PRINCIPLES])[:, None]
    assert unrated_names(model.lm) == algorithm.unrated
    scores = model._score(torch.from_numpy(rng.normal(size=(50, gradient.shape[1]))).float()).detach().numpy()
    rule = among_rated(LocalReward(name="local", path="a/b"), algorithm.unrated)
    rewards = rule(dict(zip(PRINCIPLES, scores.T, strict=True)))
    columns = [PRINCIPLES.index(name) for name in rated]
    np.testing.assert_allclose(rewards, scores[:, columns].mean(1), rtol=1e-4)
    if rated == ("safety",):
        assert np.corrcoef(rewards, scores[:, columns[0]])[0, 1] == pytest.approx(1.0)
    pairs = [row.reshape(2, -1) for row in scores.reshape(25, -1)]
    figures = algorithm.evaluation(rating_only(*rated, count=25), pairs)
    assert figures["reward_mean"] == pytest.approx(rewards.mean(), rel=1e-5), "the scale of reward.normalise"
    assert figures["reward_std"] == pytest.approx(rewards.std(ddof=1), rel=1e-5)


def test_the_gradient_leaves_the_score_of_an_unrated_principle_constant() -> None:
    groups, scores = rating_only("safety", "empathy"), torch.randn(80, len(PRINCIPLES), requires_grad=True)
    HEADS.loss(Outputs(scores=scores), build_batch([groups]))["loss_ratings"].sum.backward()
    assert scores.grad is not None
    moved = {name for name, column in zip(PRINCIPLES, scores.grad.T, strict=True) if column.any()}
    assert moved == {"safety", "empathy"}


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"weights": {"clarity": 2.0}}, "reward.weights: no row rated clarity when a/b was trained"),
        (
            {"combine": "constraint", "at_least": {"clarity": 4.0}},
            "reward.at_least: no row rated clarity when a/b was trained",
        ),
        ({"weights": {"safety": 0.0, "empathy": 0.0}}, "the others are empathy, safety"),
        ({"combine": "lexicographic", "at_least": {"safety": 4.0}, "weights": {"empathy": 0.0}}, "the others are"),
    ],
)
def test_settings_that_need_an_unrated_principle_are_refused(settings: dict[str, Any], said: str) -> None:
    unrated = tuple(name for name in PRINCIPLES if name not in ("safety", "empathy"))
    with pytest.raises(UserError, match=said):
        among_rated(LocalReward(name="local", path="a/b", **settings), unrated)
    among_rated(LocalReward(name="local", path="a/b", **settings), ())
    assert among_rated(LocalReward(name="local", path="a/b", weights={"clarity": 0.0}), unrated).weights["clarity"] == 0


@pytest.mark.parametrize(
    ("overrides", "said"),
    [
        (["data.soft_labels=true"], "data.soft_labels gives none"),
        (["data.controls=[echo]"], "data.controls gives none"),
        (["model.lora.rank=4"], "add model.lora.merge=true"),
    ],
)
def test_settings_that_do_not_fit_ratings_are_refused(overrides: list[str], said: str) -> None:
    with pytest.raises(UserError) as caught:
        settled("algo=reward", "algo.heads=principles", *overrides, name="train")
    assert said in str(caught.value) and "\n" not in str(caught.value)


def test_settings_of_pairs_have_no_effect() -> None:
    assert {"margin", "centring"} <= HEADS.unused(settled("algo=reward", name="train")).keys()


# A run: replies that say "calm" have empathy, those that say "doctor" safety, and clarity is never applicable.


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    rng, file = np.random.default_rng(0), tmp_path_factory.mktemp("rated") / "rated.jsonl"
    rows = list[dict[str, Any]]()
    for number in range(240):
        row: dict[str, Any] = {"id": str(number), "prompt": f"Client {number} feels {rng.choice(['low', 'lost'])}."}
        for side, calm in (("chosen", True), ("rejected", False)):
            doctor = bool(rng.integers(2))
            words = ["calm"] * calm + ["doctor"] * doctor + ["and", "so", str(rng.integers(9))]
            row[side] = " ".join(rng.permutation(words))
            ratings = dict.fromkeys(PRINCIPLES, 3.0) | {"empathy": 1.0 + 4 * calm, "safety": 1.0 + 4 * doctor}
            row |= {f"{side}_{name}_rating": ratings[name] for name in PRINCIPLES if name != "clarity"}
        rows.append(row)
    file.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return file


@pytest.fixture(scope="module")
def trained(data: Path, small_model: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("heads")
    given = ["algo=reward", "algo.heads=principles", f"model.path={small_model}", "data=local", f"data.path={data}"]
    given += ["max_steps=120", "global_batch_size=16", "algo.lr=3e-3", "eval.every=0", "checkpoint.every=0"]
    cli("train", *given, "cluster.threads=1", "run_dir=run", cwd=folder)
    return folder / "run"


@pytest.mark.slow
def test_each_head_learns_its_own_principle(trained: Path) -> None:
    figures = metrics_of(trained)[-1]
    assert figures["eval/accuracy_empathy"] > 0.9 and figures["eval/accuracy_safety"] > 0.9
    assert figures["eval/error_empathy"] < 1 and figures["eval/error_safety"] < 1, "constant scores are wrong by 2"
    assert "eval/accuracy_clarity" not in figures, "it is never applicable"


@pytest.mark.slow
def test_plain_transformers_gives_the_same_scores(trained: Path) -> None:
    folder = trained / "model"
    model, tokenizer = AutoModelForSequenceClassification.from_pretrained(folder), AutoTokenizer.from_pretrained(folder)
    assert model.config.num_labels == 7 and tuple(model.config.id2label.values()) == PRINCIPLES
    texts = [tokenizer.apply_chat_template(conversation, tokenize=False) for conversation in CONVERSATIONS]
    batch = tokenizer(texts, padding=True, add_special_tokens=False, return_tensors="pt")
    with torch.no_grad():
        plain = (model(**batch).logits + model.config.rating_middle).numpy()
    scorer = LocalScorer.load(str(folder), system_prompt=None)
    rewards = scorer.score(CONVERSATIONS)
    np.testing.assert_allclose(np.column_stack(list(scorer.parts.values())), plain, atol=2e-5)
    assert tuple(scorer.parts) == PRINCIPLES and np.sort(np.ptp(plain, axis=0))[1] > 1e-3
    rated = [place for place, name in enumerate(PRINCIPLES) if name != "clarity"]
    np.testing.assert_allclose(rewards, plain[:, rated].mean(1), atol=2e-5)
    assert scorer.unrated == ("clarity",) and np.ptp(plain[:, PRINCIPLES.index("clarity")]) == 0
    weights = dict.fromkeys(PRINCIPLES, 0.0) | {"safety": 1.0}
    (log,) = trained.glob("logs/*/rank-0.log")
    assert "no row rates clarity: these scores stay constant" in log.read_text()
    only = LocalScorer.load(str(folder), system_prompt=None, weights=weights).score(CONVERSATIONS)
    np.testing.assert_allclose(only, plain[:, PRINCIPLES.index("safety")], atol=2e-5)
    assert scorer.score([]).shape == (0,)


@pytest.mark.slow
def test_training_goes_on_from_such_a_model_and_other_uses_are_refused(trained: Path, data: Path) -> None:
    model = f"model.path={trained}/model"
    given = ["algo=reward", model, "data=local", f"data.path={data}", "max_steps=1", "algo.lr=1e-12", "eval.every=0"]
    cli("train", *given, "algo.heads=principles", "run_dir=on", "cluster.threads=1", cwd=trained.parent)
    before, after = (load_file(run / "model" / "model.safetensors") for run in (trained, trained.parent / "on"))
    torch.testing.assert_close(after["score.weight"], before["score.weight"])
    said = cli("train", *given, "run_dir=one", cwd=trained.parent, check_code=USER_ERROR).stderr
    assert "are not those of a reward model with 1 score" in said
    critic = ["algo=ppo", "reward=local", f"reward.path={trained}", "dry_run=true"]
    said = cli("train", *critic, cwd=trained.parent, check_code=USER_ERROR).stderr
    assert "has a score for each principle; use algo.critic=policy" in said
    unrated = ["algo=reward", "algo.heads=principles", "data.path=pairs.jsonl", "data=local", "dry_run=true"]
    row = {"prompt": "Hello.", "chosen": "Yes.", "rejected": "No."}
    (trained.parent / "pairs.jsonl").write_text("".join(json.dumps(row | {"prompt": f"{n}."}) + "\n" for n in range(9)))
    assert "rows lack ratings" in cli("train", *unrated, cwd=trained.parent, check_code=USER_ERROR).stderr


@pytest.mark.slow
def test_an_evaluation_shows_each_principle(trained: Path, data: Path) -> None:
    given = [f"reward.path={trained}/model", "data=local", f"data.path={data}", "part=held_out", "run_dir=evaluated"]
    cli("evaluate", *given, "evaluation.baselines=false", cwd=trained.parent)
    figures = read_json(trained.parent / "evaluated" / "summary.json")["principles"]
    for name in ("empathy", "safety"):
        expected = metrics_of(trained)[-1][f"eval/accuracy_{name}"]
        assert figures["principles"][name]["accuracy"] == pytest.approx(expected)
    assert figures["principles"]["clarity"]["error"] is None and figures["principles"]["autonomy"]["pairs"] == 0
