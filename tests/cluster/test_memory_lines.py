"""The memory line of a run on CPU is per process, its parts add up, and a dry run prints the line of the run."""

import json
import re
import shutil
from pathlib import Path

from psychocounsel.cluster.memory.cpu import cpu_memory_line, cpu_parts
from psychocounsel.cluster.memory.gpu import trained_shape
from tests.support.composed import check, compose
from tests.support.harness import cli

_SMOLLM = {"hidden_size": 576, "intermediate_size": 1536, "num_hidden_layers": 30, "num_attention_heads": 9}
_SMOLLM |= {"num_key_value_heads": 3, "vocab_size": 49152, "tie_word_embeddings": True}


def smollm(folder: Path, *overrides: str, layers: int = 30) -> str:
    """Return the line of a model with 135 million weights, of which nothing but `config.json` exists."""
    (folder / "config.json").write_text(json.dumps({**_SMOLLM, "num_hidden_layers": layers}))
    return cpu_memory_line(check(compose(["model=local", f"model.path={folder}", "cluster.threads=2", *overrides])), 1)


def gigabytes(line: str) -> float:
    found = re.search(r"memory per process on CPU: about (\d+\.\d) GB \((.*?)\) of \d+ GB", line)
    assert found, line
    parts = [float(part.rpartition(" ")[2]) for part in found[2].split(", ")]
    assert abs(sum(parts) - float(found[1])) < 0.06 * len(parts)
    return float(found[1])


def test_a_model_of_135m_needs_what_was_measured(tmp_path: Path) -> None:
    """The peak of DPO with rows of up to 1,156 tokens in two lanes was 6.1 GB."""
    line = smollm(tmp_path, "micro_batch_tokens=2048", "checkpoint.every=0")
    assert "(weights 0.5, gradients 1.1, optimizer 1.1, activations 2.8, libraries 0.5) of " in line
    assert abs(gigabytes(line) - 6.1) < 0.4


def test_what_needs_less_is_shown_with_less(tmp_path: Path) -> None:
    whole = gigabytes(smollm(tmp_path, "micro_batch_tokens=2048"))
    for less in ("engine.two_lanes=false", "model.gradient_checkpointing=true", "model.lora.rank=16"):
        assert gigabytes(smollm(tmp_path, "micro_batch_tokens=2048", less)) < whole, less
    assert gigabytes(smollm(tmp_path, "micro_batch_tokens=auto")) < whole, "at least max_length tokens"
    assert "reference 0.5" in smollm(tmp_path, "algo=grpo", "reward=tiny") and "critic" in smollm(
        tmp_path, "algo=ppo", "reward=tiny"
    )


def test_copies_for_checkpoints_are_counted_where_one_is_written_during_training(tmp_path: Path) -> None:
    assert "copies for checkpoints 1.6" in smollm(tmp_path)  # 12 bytes of each weight
    for without in ("checkpoint.every=0", "checkpoint.background=false"):
        assert "copies for checkpoints" not in smollm(tmp_path, without)


def test_processes_share_what_zero_shares(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text(json.dumps(_SMOLLM))
    config = check(compose(["model=local", f"model.path={tmp_path}", "zero=2", "cluster.processes=2"]))
    shape = trained_shape(config)
    assert shape is not None
    one, two = cpu_parts(shape, config, 1), cpu_parts(shape, config, 2)
    assert two["gradients"] == one["gradients"] / 2 and two["optimizer"] == one["optimizer"] / 2


def test_a_machine_that_is_too_small_is_said(tmp_path: Path) -> None:
    said = "; MORE THAN this machine has: "
    assert f"{said}try engine.two_lanes=false, model.grad" in smollm(tmp_path, "micro_batch_tokens=900000")
    adapters = smollm(tmp_path, "micro_batch_tokens=9000000", "model.lora.rank=8")
    assert f"{said}try model.gradient_checkpointing=true, a smaller" in adapters, "adapters never have two lanes"
    (tmp_path / "large").mkdir()
    large = smollm(tmp_path / "large", layers=30_000)
    assert large.endswith(f"{said}the weights alone need more, so use a GPU or a larger machine")


def test_dry_run_and_run_print_the_same_line(small_model: Path, tmp_path: Path) -> None:
    shutil.copytree(small_model, tmp_path / "mine")
    given = ["debug=fast", "model=local", "model.path=mine", "run_dir=run", "cluster.device=cpu"]
    dry = cli("train", *given, "dry_run=true", cwd=tmp_path).stdout
    (line,) = re.findall(r"^mine: memory per process on CPU: about .*$", dry, re.MULTILINE)
    assert re.search(
        r"^on a machine with 8 GPUs, mine: memory on each of 8 GPUs: about \d+ GB \(weights ", dry, re.MULTILINE
    )
    assert re.search(r"^on a machine with 8 GPUs, mine: host memory on the machine: about \d+ GB \(", dry, re.MULTILINE)
    assert cli("train", *given, cwd=tmp_path).stderr.count(line) == 1
    assert line in (tmp_path / "run" / "logs" / "01" / "rank-0.log").read_text()
