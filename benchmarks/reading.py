"""Measure if a reward model uses the speech, and if controls help: `python -m benchmarks.reading FOLDER`.

For each seed, the benchmark trains reward models from the shipped policy, with the settings of the shipped reward model: one
on pairs without their speeches, and one for each value of `--rates` on the whole pairs. All are evaluated on the same
held-out pairs. The gain of a model is the difference of its accuracy to that of the model without speeches, averaged over
seeds and pairs. The 95 % intervals are bootstraps over components of shared text.
"""

import argparse
import json
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from omegaconf import OmegaConf

from psychocounsel.api import compose
from psychocounsel.data.rows import Example
from psychocounsel.data.selection import load_split
from psychocounsel.data.shared_text import components_of
from psychocounsel.evaluation.reward.figures import flipped_figures
from psychocounsel.metrics.intervals import mean_intervals
from psychocounsel.model import build_tiny
from psychocounsel.rundir.paths import RunDir

SPEECHLESS = "speeches gone"
QUARTET = "-flip-"  # part of the ids of the sample's flip quartets


def rows_of(pairs: Sequence[Example], with_speech: bool) -> list[dict[str, Any]]:
    """Return preference rows. If `with_speech` is false, each prompt is replaced by a client number.

    Different prompts get different numbers, because equal prompts would count as leaks into the held-out split.
    """
    numbers: dict[str, int] = {}
    rows = []
    for pair in pairs:
        prompt = json.dumps(pair.prompt)
        shown = pair.prompt if with_speech else f"Client {numbers.setdefault(prompt, len(numbers))}."
        chosen, rejected = pair.replies[:2]
        rows.append({"id": pair.id, "prompt": shown, "chosen": chosen, "rejected": rejected, "topic": pair.topic})
    return rows


def write(folder: Path, train: Sequence[Example], held_out: Sequence[Example]) -> dict[bool, list[str]]:
    """Write files of pairs with and without speeches, and return the overrides that select them.

    Client numbers of held-out pairs differ from those of training pairs.
    """
    found = {}
    for with_speech in (True, False):
        rows = rows_of([*train, *held_out], with_speech)
        parts = {"path": rows[: len(train)], "eval_path": rows[len(train) :]}
        found[with_speech] = ["data=local"]
        for key, part in parts.items():
            file = folder / f"{key}_{'with' if with_speech else 'without'}_speeches.jsonl"
            file.write_text("".join(json.dumps(row) + "\n" for row in part))
            found[with_speech].append(f"data.{key}={file}")
    return found


def with_controls(rate: str) -> list[str]:
    """Return the overrides that add `rate` times as many pairs against good replies to other clients; none for 0."""
    return ["data.controls=[other_client]", f"data.control_rate={rate}"] if float(rate) else []


def run(*command: str) -> None:
    done = subprocess.run([sys.executable, "-m", *command], capture_output=True, text=True)
    if done.returncode:
        sys.exit(f"{' '.join(command)} failed:\n{done.stdout[-2000:]}{done.stderr[-2000:]}")


def margins(folder: Path, overrides: Sequence[str], training: Sequence[str], ids: Sequence[str]) -> np.ndarray:
    """Train in `folder`, evaluate on the held-out split, and return the differences of rewards, float[pairs]."""
    if not RunDir(folder / "evaluation").scores.exists():
        run("psychocounsel.train", "algo=reward", "model=tiny", *overrides, *training, f"run_dir={folder / 'run'}")
        reward = ["reward=local", f"reward.path={RunDir(folder / 'run').model}"]
        run("psychocounsel.evaluate", *reward, *overrides, f"run_dir={folder / 'evaluation'}")
    scores = [json.loads(line) for line in RunDir(folder / "evaluation").scores.read_text().splitlines()]
    assert [row["id"] for row in scores] == list(ids)
    return np.array([row["chosen"] - row["rejected"] for row in scores])


def say(name: str, found: np.ndarray, blind: np.ndarray, held_out: Sequence[Example]) -> dict[str, Any]:
    """Print and return accuracy, gain over the model without speeches, and accuracy on flipped pairs and quartets.

    `found` and `blind` are differences of rewards, float[seeds, pairs]. Figures of flipped pairs and their intervals are
    means over seeds.
    """
    component = components_of(held_out)
    won, won_blind = ((each > 0) + 0.5 * (each == 0) for each in (found, blind))
    columns = np.stack([won.mean(0), (won - won_blind).mean(0)], 1)
    (low, high), (gain_low, gain_high) = mean_intervals(columns, component).tolist()
    accuracy, gain = columns.mean(0).tolist()
    figures: dict[str, Any] = {
        "accuracy": [accuracy, low, high],
        "gain": [gain, gain_low, gain_high],
        "by_seed": won.mean(1).tolist(),
    }
    line = f"{name:<16}{accuracy:.3f} ({low:.3f} to {high:.3f})   gain {100 * gain:+.1f} points"
    line += f" ({100 * gain_low:.1f} to {100 * gain_high:.1f})"
    quartets = [row for row, pair in enumerate(held_out) if QUARTET in pair.id]
    for title, rows in (("flipped pairs", list(range(len(held_out)))), ("quartets", quartets)):
        each = [flipped_figures([held_out[row] for row in rows], margins[rows]) for margins in found]
        if each[0]:
            shares = [[one[f"flipped_accuracy{end}"] for one in each] for end in ("", "_low", "_high")]
            figures[title] = [float(np.mean(share)) for share in shares]
            mean, low, high = figures[title]
            line += f"   {title} {mean:.3f} ({low:.3f} to {high:.3f})"
    print(line, flush=True)
    return figures


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path, help="folder for the runs; finished runs are not repeated")
    parser.add_argument(
        "--data", default="data=sample", help="overrides of the data, separated by spaces (data=sample)"
    )
    parser.add_argument("--seeds", default="1,2", help="seeds of training (1,2)")
    parser.add_argument("--rates", default="0,0.2,1", help="numbers of other_client controls per pair (0,0.2,1)")
    parser.add_argument("--recipe", default="", help="more overrides of training")
    given = parser.parse_args()
    given.folder.mkdir(parents=True, exist_ok=True)
    train, held_out = load_split(compose(given.data.split()).data, print)
    files = write(given.folder.resolve(), train, held_out)
    recipe: Any = OmegaConf.load(Path(build_tiny.__file__).with_suffix(".yaml"))
    basic = [text for text in recipe.tiny_reward if not text.startswith("data.control")] + given.recipe.split()
    kinds = {SPEECHLESS: (False, basic)}
    kinds |= {f"controls={rate}": (True, [*basic, *with_controls(rate)]) for rate in given.rates.split(",")}
    ids, found = [pair.id for pair in held_out], {}
    for name, (with_speech, training) in kinds.items():
        folders = [
            given.folder / f"{name.replace(' ', '_').replace('=', '_')}-{seed}" for seed in given.seeds.split(",")
        ]
        each = [
            margins(folder, files[with_speech], [*training, f"seed={folder.name.rsplit('-', 1)[1]}"], ids)
            for folder in folders
        ]
        found[name] = np.stack(each)
    print(f"\n{len(train)} training pairs, {len(held_out)} held-out pairs, seeds {given.seeds}")
    figures = {name: say(name, values, found[SPEECHLESS], held_out) for name, values in found.items()}
    (given.folder / "reading.json").write_text(json.dumps(figures, indent=1))


if __name__ == "__main__":
    main()
