"""Every split of the work into processes, micro-batches and ZeRO stages gives the same training."""

from pathlib import Path

import pytest
from safetensors.torch import load_file

from tests.support.harness import ROOT, cli, metrics_of

BASE = [
    "data.limit=48",
    "eval.limit=10",
    "max_steps=4",
    "global_batch_size=7",
    "eval.every=2",
    "checkpoint.every=0",
    "max_length=512",
    "micro_batch_tokens=8192",
    "algo.lr=1e-3",
    "algo.warmup=0",
    "algo.max_grad_norm=0.5",
    "algo.weight_decay=0.1",
    "algo.adam_eps=1e-5",  # the usual 1e-8 would turn rounding noise of near-zero gradients into whole updates
]


def train(run_dir: Path, model: Path, *overrides: str) -> Path:
    cli("train", f"run_dir={run_dir}", f"model.path={model}", *BASE, *overrides, cwd=ROOT)
    return run_dir


@pytest.fixture(scope="module")
def reference(tmp_path_factory: pytest.TempPathFactory, small_model: Path) -> Path:
    return train(tmp_path_factory.mktemp("equality") / "reference", small_model)


def assert_same_training(run_dir: Path, reference: Path) -> None:
    got, expected = metrics_of(run_dir), metrics_of(reference)
    assert [line["step"] for line in got] == [0, 1, 2, 3, 4]
    for mine, theirs in zip(got, expected, strict=True):
        assert mine.keys() == theirs.keys()
        for name in ("loss", "eval/loss", "grad_norm"):
            if name in theirs:
                assert mine[name] == pytest.approx(theirs[name], rel=2e-5), (mine["step"], name)
    weights, others = (load_file(next((folder / "model").glob("*.safetensors"))) for folder in (run_dir, reference))
    assert weights.keys() == others.keys()
    for name, tensor in others.items():
        assert (weights[name] - tensor).norm() <= 1e-4 * tensor.norm(), name


_SHARDED = ["cluster.processes=2", "zero=3", "zero.persistence_elements=0"]


@pytest.mark.parametrize(
    "overrides",
    [
        [*_SHARDED, "micro_batch_tokens=600"],
        pytest.param([*_SHARDED, "model.attention=dense"], marks=pytest.mark.slow),
        pytest.param([*_SHARDED, "model.gradient_checkpointing=true"], marks=pytest.mark.slow),
    ],
    ids=" ".join,
)
def test_split_changes_nothing(overrides: list[str], reference: Path, small_model: Path, tmp_path: Path) -> None:
    assert_same_training(train(tmp_path / "run", small_model, *overrides), reference)


@pytest.mark.slow
def test_gradients_that_travel_in_bf16_are_rounded_and_no_more(small_model: Path, tmp_path: Path) -> None:
    """The norm of the first step's gradients may differ by bfloat16 rounding, up to 1 in 256 for each value."""
    sharded = ("cluster.processes=2", "zero=2", "max_steps=1", "model.dtype=bf16", "algo.max_grad_norm=null")
    norms = [
        metrics_of(train(tmp_path / dtype, small_model, *sharded, f"zero.reduce_dtype={dtype}"))[1]["grad_norm"]
        for dtype in ("fp32", "bf16")
    ]
    assert 0 < abs(norms[1] / norms[0] - 1) < 1e-3


USUAL = [(2, 3, 600)]  # tests of the other settings are marked as slow or as proofs
MATRIX = [(stage, count, budget) for stage in range(4) for count in (1, 2, 3) for budget in (600, 8192)]


@pytest.mark.slow
@pytest.mark.parametrize(
    ("stage", "processes", "budget"),
    [pytest.param(*case, marks=() if case in USUAL else pytest.mark.proof) for case in MATRIX],
)
def test_full_matrix(
    stage: int, processes: int, budget: int, reference: Path, small_model: Path, tmp_path: Path
) -> None:
    overrides = [f"zero={stage}", f"cluster.processes={processes}", f"micro_batch_tokens={budget}"]
    overrides += ["zero.persistence_elements=0"] if stage == 3 else []
    assert_same_training(train(tmp_path / "run", small_model, *overrides), reference)


@pytest.mark.parametrize(
    "algorithm",
    [
        pytest.param("algo=reward algo.margin=0.3 algo.centring=0.01", marks=pytest.mark.slow),
        pytest.param("algo=kto", marks=pytest.mark.proof),
        pytest.param("algo=reward model.lora.rank=4", marks=pytest.mark.proof),
        pytest.param("algo=sft", marks=pytest.mark.proof),
        pytest.param("algo=simpo algo.sft_weight=0.5", marks=pytest.mark.proof),
        pytest.param("algo=orpo", marks=pytest.mark.proof),
        pytest.param("algo=dpo model.lora.rank=4", marks=pytest.mark.slow),
    ],
)
def test_split_changes_nothing_for_other_algorithms(algorithm: str, small_model: Path, tmp_path: Path) -> None:
    alone = train(tmp_path / "alone", small_model, *algorithm.split())
    split = ["cluster.processes=2", "zero=3", "zero.persistence_elements=0", "micro_batch_tokens=600"]
    run_dir = train(tmp_path / "split", small_model, *algorithm.split(), *split)
    assert_same_training(run_dir, alone)


@pytest.mark.slow
@pytest.mark.parametrize("stage", [*(pytest.param(each, marks=pytest.mark.proof) for each in range(3)), 3])
def test_bf16_stays_near_fp32(stage: int, reference: Path, small_model: Path, tmp_path: Path) -> None:
    run_dir = train(
        tmp_path / "run",
        small_model,
        f"zero={stage}",
        "cluster.processes=2",
        "model.dtype=bf16",
        *(["zero.persistence_elements=0"] if stage == 3 else []),
    )
    for mine, theirs in zip(metrics_of(run_dir), metrics_of(reference), strict=True):
        for name in ("loss", "eval/loss"):
            if name in theirs:
                assert mine[name] == pytest.approx(theirs[name], rel=0.05), (mine["step"], name)
