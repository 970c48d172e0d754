"""Every preset has the documented values and works. Experiments train tiny models of their architecture."""

import math
import re
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import yaml
from omegaconf import DictConfig, OmegaConf

from psychocounsel.counsel.principles import PRINCIPLES
from psychocounsel.data.dataset import build_dataset
from psychocounsel.engine.schedule import RoundOrder
from psychocounsel.errors import UserError
from psychocounsel.model.tokenizer import load_chat_format
from psychocounsel.storage.files import read_json, shipped
from tests.support.composed import check, compose
from tests.support.harness import ROOT, TINY, cli, metrics_of, small_lm

CONF = shipped("conf")
KINDS = {"llama3": "llama", "psychocounsel": "llama", "smollm2": "llama", "qwen3": "qwen3"}


def choices(group: str) -> list[str]:
    return sorted(file.stem for file in (CONF / group).glob("*.yaml"))


EXPERIMENTS = [
    name for name in choices("experiment") if name not in ("judge", "online_dpo_8b_async")
]  # of papers and models
SWEEPS, REWARDS = choices("sweep"), choices("reward")
USUAL = ("paper_dpo_iter_8b", "paper_reward_8b")  # the other models are trained by tests marked as proofs
REWARDS.remove("ensemble")  # it has no members of its own; tests/test_reward_ensemble.py gives it some
MODELS = [name for name in choices("model") if name not in ("local", "tiny", "tiny_dpo")]


def rows(count: int) -> list[dict[str, Any]]:
    """Return pairs in the columns of the released dataset."""
    return [
        {
            "prefID": number,
            "question": f"Since day {number} I have not slept, and nobody at home knows what I carry with me.",
            "chosen": f"That is {number} days with it all by yourself. What happens when the night comes?",
            "rejected": f"Stop thinking of day {number}." + " Just relax." * (number % 5),
            **{f"chosen_{name}_rating": float(4 + number % 2) for name in PRINCIPLES},
            **{f"rejected_{name}_rating": float(1 + number % 3) for name in PRINCIPLES},
        }
        for number in range(count)
    ]


@pytest.fixture(scope="session")
def stand_ins(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a folder with a tiny model of every architecture in use, and `pairs` in the layout of the hub's repository."""
    import pyarrow as pa
    import pyarrow.parquet as pq
    from transformers import AutoTokenizer

    folder = tmp_path_factory.mktemp("stand-ins")
    tokenizer = AutoTokenizer.from_pretrained(TINY)
    for kind in set(KINDS.values()):
        ends = {"pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 2}
        small_lm(kind, vocab_size=len(tokenizer), max_position_embeddings=4096, **ends).save_pretrained(folder / kind)
        tokenizer.save_pretrained(folder / kind)
    (folder / "pairs" / "data").mkdir(parents=True)
    pq.write_table(pa.Table.from_pylist(rows(40)), folder / "pairs" / "data" / "train-00000-of-00001.parquet")
    pq.write_table(pa.Table.from_pylist(rows(44)[40:]), folder / "pairs" / "data" / "test-00000-of-00001.parquet")
    return folder


def in_place(model: str, folder: Path, data: str = "pairs/data/train-00000-of-00001.parquet") -> list[str]:
    """Return overrides that replace a preset's model and data by the stand-ins."""
    kind = next(kind for prefix, kind in KINDS.items() if model.startswith(prefix))
    return [f"model.path={folder / kind}", f"data.path={folder / data}"]


@cache
def experiment(name: str) -> DictConfig:
    return check(compose([f"experiment={name}", *NEED_MORE.get(name, [])]))


def comment(group: str, name: str) -> str:
    lines = (CONF / group / f"{name}.yaml").read_text().splitlines()
    return " ".join(line.lstrip("# ") for line in lines if line.startswith("#") and "@package" not in line)


def select(config: DictConfig, *keys: str) -> list[Any]:
    return [OmegaConf.select(config, key) for key in keys]


# -- experiments

PROMISED: dict[str, dict[str, Any]] = {
    "paper_reward": {
        **{"algo._target_": "psychocounsel.algo.reward.Reward", "algo.lr": 9e-6, "algo.margin": 0.0},
        **{"epochs": 2, "global_batch_size": 128, "algo.warmup": 0.03, "algo.min_lr_ratio": 0.1},
    },
    "paper_dpo": {
        **{"algo._target_": "psychocounsel.algo.dpo.DPO", "algo.beta": 0.1, "algo.loss_type": "sigmoid"},
        **{"algo.lr": 5e-7, "epochs": 1, "global_batch_size": 64, "algo.warmup": 0.1},
    },
    "paper_dpo_iter": {
        **{"algo._target_": "psychocounsel.algo.online_dpo.OnlineDPO", "algo.beta": 0.1, "algo.loss_type": "sigmoid"},
        **{"algo.lr": 5e-7, "max_steps": 1600, "global_batch_size": 64, "algo.warmup": 0.1},
        **{"algo.prompts_per_round": 6400, "algo.samples": 8, "rollout.temperature": 1.0, "algo.pairs": "best_worst"},
        **{"checkpoint.metric": "eval/reward", "algo.reference": "initial", "rollout.top_p": 1.0},
    },
    "ppo_8b": {"algo._target_": "psychocounsel.algo.ppo.PPO", "algo.critic": "reward", "rollout.offload_idle": True},
    "grpo_8b": {"algo._target_": "psychocounsel.algo.grpo.GRPO", "algo.samples": 8},
    "online_dpo_8b": {"algo._target_": "psychocounsel.algo.online_dpo.OnlineDPO", "algo.beta": 0.1},
    "simpo_llama3": {
        **{"algo._target_": "psychocounsel.algo.simpo.SimPO", "max_prompt_length": 1800},
        **{"epochs": 1, "global_batch_size": 128, "algo.warmup": 0.1, "algo.sft_weight": 0.0},
    },
}
SIMPO = {  # beta, gamma / beta, learning rate and model of princeton-nlp/SimPO's README and training_configs
    "simpo_llama3_base": (2.0, 0.5, 6e-7, "princeton-nlp/Llama-3-Base-8B-SFT"),
    "simpo_llama3_instruct": (2.5, 0.55, 1e-6, "meta-llama/Meta-Llama-3-8B-Instruct"),
    "simpo_llama3_instruct_v2": (10.0, 0.3, 1e-6, "meta-llama/Meta-Llama-3-8B-Instruct"),
}
PAPER = {"3b": "meta-llama/Llama-3.2-3B-Instruct", "8b": "meta-llama/Llama-3.1-8B-Instruct"}
EVERYWHERE = {
    **{
        "max_length": 2048,
        "algo.schedule": "cosine",
        "zero.stage": "auto",
        "data.dev_fraction": 0.1,
        "data.min_gap": None,
    },
    **{"data.path": "Psychotherapy-LLM/PsychoCounsel-Preference", "model.gradient_checkpointing": "auto"},
}


NEED_MORE = {  # there is no released reward model of 3B, and vLLM need not be installed here
    "paper_dpo_iter_3b": ["reward.path=org/name", "rollout=hf"],
    **{name: ["rollout=hf"] for name in ("paper_dpo_iter_8b", "ppo_8b", "grpo_8b", "online_dpo_8b")},
}


@pytest.mark.parametrize("name", EXPERIMENTS)
def test_experiments_hold_the_values_that_they_promise(name: str) -> None:
    config = experiment(name)
    family = max((prefix for prefix in PROMISED if name.startswith(prefix)), key=len)
    promised = {**EVERYWHERE, **PROMISED[family]}
    assert dict(zip(promised, select(config, *promised), strict=True)) == promised
    if name in SIMPO:
        settings = select(config, "algo.beta", "algo.gamma_beta_ratio", "algo.lr", "model.path")
        assert tuple(settings) == SIMPO[name]
    else:
        assert config.model.path == PAPER[name.rpartition("_")[2]]


def test_the_papers_and_simpos_settings_are_all_there() -> None:
    assert set(EXPERIMENTS) == {
        *SIMPO,
        *(f"{algo}_8b" for algo in ("ppo", "grpo", "online_dpo")),
        *(f"paper_{algo}_{size}" for algo in ("reward", "dpo", "dpo_iter") for size in PAPER),
    }


def test_the_recipe_of_a_judge_takes_any_model_and_data() -> None:
    config = check(compose(["experiment=judge"]))
    assert (config.epochs, config.data.control_rate, len(config.data.controls)) == (2, 0.25, 9)
    assert config.algo._target_ == "psychocounsel.algo.reward.Reward" and config.model.name == "tiny"
    other = check(compose(["experiment=judge", "data=psychocounsel", "model=qwen3_0_6b", "epochs=4"]))
    assert (other.epochs, other.data.controls, other.algo.lr) == (4, config.data.controls, 2e-4)


def test_the_asynchronous_recipe_trains_on_one_node_while_another_writes() -> None:
    config = check(compose(["experiment=online_dpo_8b_async", "dry_run=true"]))
    here = compose(["experiment=online_dpo_8b", "rollout=hf"])
    assert config.algo == here.algo and config.rollout.max_staleness == 1
    assert (config.cluster.nodes, config.cluster.server_nodes, config.cluster.gpus_per_node) == (1, 1, 8)


def test_the_rounds_of_the_papers_iterations() -> None:
    assert compose(["experiment=paper_dpo_iter_8b"]).rollout._target_.endswith(".VLLM")
    config = check(compose(["experiment=paper_dpo_iter_8b", "rollout=hf"]))
    algo, batch = config.algo, config.global_batch_size
    order = RoundOrder(23_000, algo.prompts_per_round, batch, algo.passes, config.epochs, config.max_steps, 1)
    assert (order.steps_per_round, order.steps, order.round_of(order.steps - 1)) == (100, 1600, 15)
    assert config.reward.path == "Psychotherapy-LLM/PsychoCounsel-Llama3-8B-Reward"
    with pytest.raises(UserError, match="reward.path is not set"):
        check(compose(["experiment=paper_dpo_iter_3b", "rollout=hf"]))


@pytest.mark.parametrize("name", EXPERIMENTS)
def test_an_experiment_says_where_its_values_come_from(name: str) -> None:
    said, config = comment("experiment", name), experiment(name)
    assert re.search(r"arXiv \d{4}\.\d{5}", said)
    numbers = {float(number) for number in re.findall(r"(?<![\d.v])\d+(?:\.\d+)?(?:e-?\d+)?", said)}
    keys = {"paper_reward": ("epochs", "global_batch_size", "algo.lr", "max_length"), "paper_dpo": ("algo.beta",)}
    keys["paper_dpo_iter"] = ("algo.beta", "algo.lr", "algo.samples", "algo.prompts_per_round", "max_steps")
    rounds = ("algo.lr", "algo.samples", "algo.prompts_per_round", "global_batch_size", "max_length")
    keys |= dict.fromkeys(("ppo", "grpo", "online_dpo"), rounds)
    simpo = ("algo.beta", "algo.gamma_beta_ratio", "algo.lr", "global_batch_size", "max_length", "algo.warmup")
    assert set(select(config, *keys.get(name.rpartition("_")[0], simpo))) <= numbers
    assert f"`{name}`" in (ROOT / "docs" / "models.md").read_text()


@pytest.mark.parametrize("name", EXPERIMENTS)
def test_experiments_take_models_and_data_in_the_place_of_theirs(name: str, stand_ins: Path) -> None:
    model = experiment(name).model.name
    config = check(compose([f"experiment={name}", *in_place(model, stand_ins), *NEED_MORE.get(name, [])]))
    assert (config.model.name, config.data.name) == (model, "psychocounsel")
    _, chat = load_chat_format(config.model)
    data = build_dataset(config, chat, "pairs", pytest.fail)
    assert (len(data.train), len(data.held_out)) == (36, 4)
    assert data.train[0].completions[0].reward in (4.0, 5.0), "the ratings are read"


def test_what_you_type_counts_more_than_an_experiment() -> None:
    typed = ["epochs=3", "algo.lr=1e-6", "model=qwen3_8b", "zero=2", "data=sample", "algo.margin=0.5"]
    for overrides in ([*typed, "experiment=paper_reward_8b"], ["experiment=paper_reward_8b", *typed]):
        config = check(compose(overrides))
        keys = ("epochs", "algo.lr", "model.name", "zero.stage", "data.name", "algo.margin", "global_batch_size")
        assert select(config, *keys) == [3, 1e-6, "qwen3_8b", 2, "sample", 0.5, 128]


def train(*overrides: str, folder: Path, judged: tuple[str, ...] = ("eval/loss", "eval/accuracy")) -> Path:
    """Train one real step and return the run directory."""
    short = ["max_steps=1", "global_batch_size=4", "eval.limit=3", "cluster.processes=1", "cluster.device=cpu"]
    cli("train", *overrides, *short, "run_dir=run", cwd=folder)
    assert read_json(folder / "run" / "summary.json")["status"] == "finished"
    before, after = metrics_of(folder / "run")
    assert math.isfinite(after["loss"]) and after["grad_norm"] > 0
    assert {*judged} <= before.keys() & after.keys()
    return folder / "run"


@pytest.mark.slow
@pytest.mark.parametrize(
    "name",  # with stand-ins, experiments of 3b equal those of 8b
    [pytest.param(name, marks=() if name in USUAL else pytest.mark.proof) for name in EXPERIMENTS],
)
def test_experiments_train(name: str, stand_ins: Path, tmp_path: Path) -> None:
    online = experiment(name).get("reward") is not None
    rounds = ["reward.path=builtin:tiny_reward", "algo.prompts_per_round=4", "rollout.max_tokens=8", "rollout=hf"]
    judged = ("eval/reward", "eval/kl") if online else ("eval/loss", "eval/accuracy")
    overrides = [
        f"experiment={name}",
        *in_place(experiment(name).model.name, stand_ins, "pairs"),
        *(rounds if online else []),
    ]
    run = train(*overrides, folder=tmp_path, judged=judged)
    settings = read_json(run / "model" / "config.json")
    scores = name.startswith("paper_reward")
    assert settings["architectures"] == ["LlamaForSequenceClassification" if scores else "LlamaForCausalLM"]
    front = yaml.safe_load((run / "model" / "README.md").read_text().split("---\n")[1])
    assert front["license"] == "cc-by-nc-4.0", "the data's, which is stricter than the model's"


# -- models, rewards, sweeps


@pytest.mark.parametrize("name", MODELS)
def test_model_presets_take_a_folder_in_the_place_of_theirs(name: str, stand_ins: Path) -> None:
    hub = check(compose([f"model={name}"])).model
    assert hub.name == name and re.fullmatch(r"[\w.-]+/[\w.-]+", hub.path)
    config = check(compose([f"model={name}", *in_place(name, stand_ins)]))
    assert config.model.name == name
    assert {**hub, "path": config.model.path} == config.model
    assert config.algo.lr == 3e-4, "the learning rate for the size of the stand-in"
    _, chat = load_chat_format(config.model)
    assert len(build_dataset(config, chat, "completions", pytest.fail).train) == 36


@pytest.mark.parametrize("name", MODELS)
def test_model_presets_name_a_licence_or_what_they_are(name: str) -> None:
    said, model = comment("model", name), compose([f"model={name}"]).model
    assert model.license or "paper" in said
    assert f"`{name}`" in (ROOT / "docs" / "models.md").read_text()
    if any(version in model.path for version in ("Llama-3.1", "Llama-3.2", "PsychoCounsel-Llama3")):
        assert model.template_args.date_string == "26 Jul 2024", "its template would write today's date"


@pytest.mark.slow
@pytest.mark.parametrize("name", ["qwen3_8b", "psychocounsel_8b"])
def test_model_presets_train(name: str, stand_ins: Path, tmp_path: Path) -> None:
    train(f"model={name}", "data=psychocounsel", *in_place(name, stand_ins), folder=tmp_path)


@pytest.mark.parametrize("name", REWARDS)
def test_reward_presets_compose_and_pass_their_checks(name: str) -> None:
    more = {
        "local": ["reward.path=org/name"],
        "vllm_server": ["reward.path=org/name", "reward.addresses=[http://node:8000]"],
        "openrlhf_server": ["reward.path=org/name", "reward.addresses=[http://node:8000]"],
        "flow": ["reward.judge.model=name"],
        "rubric": ["reward.judge.model=name"],
        "judge": ["reward.judge.model=name", "reward.criteria=list.yaml"],
    }
    command = ("train", ["algo=grpo"]) if name in ("flow", "rubric", "judge") else ("evaluate", [])
    config = check(compose([f"reward={name}", *more.get(name, []), *command[1]], name=command[0]))
    assert not OmegaConf.missing_keys(config)
    assert config.reward.name == {"shipped": "tiny", "local": "name"}.get(name, name)
    assert comment("reward", name)


@pytest.mark.parametrize(
    "name", [name if name == "dpo_beta" else pytest.param(name, marks=pytest.mark.slow) for name in SWEEPS]
)
def test_sweeps_expand_and_every_run_of_them_passes_its_checks(name: str, tmp_path: Path) -> None:
    content = yaml.safe_load((CONF / "sweep" / f"{name}.yaml").read_text())
    lengths = [len(values) for values in content["cross"].values()]
    count = math.prod(lengths) * max(map(len, content.get("pair", {"": [0]}).values()))
    said = cli("train", f"sweep={name}", "dry_run=true", cwd=tmp_path).stdout.splitlines()
    plan = [line for line in said if line.startswith("would run ")]
    assert len(plan) == len(set(plan)) == count
    said = comment("sweep", name)
    assert said
    assert all(int(number) == count for number in re.findall(r"(\d+) runs", said))
    assert not list(tmp_path.iterdir())


def test_the_sweep_over_simpos_settings_holds_those_of_the_experiments() -> None:
    rows = yaml.safe_load((CONF / "sweep" / "simpo_settings.yaml").read_text())["pair"]
    assert set(zip(*rows.values(), strict=True)) == {settings[:2] for settings in SIMPO.values()}
