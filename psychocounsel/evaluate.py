"""`python -m psychocounsel.evaluate`: accuracy, AUC, calibration and Brier score of a reward model on held-out pairs."""

import sys
from collections.abc import Sequence
from pathlib import Path

from omegaconf import DictConfig, open_dict

from psychocounsel import config as configs
from psychocounsel import hub, identity
from psychocounsel.app import load_data_preset, main
from psychocounsel.cluster.job import Job, Submission
from psychocounsel.errors import DONE, UserError


def compose(
    module: str, composed: DictConfig, overrides: Sequence[str], index: int = 0, sweep: Path | None = None
) -> Job:
    """Check a composed configuration and choose the folder of its results.

    Raises:
        UserError: if the configuration cannot work, or the folder holds something.
    """
    with open_dict(composed):
        configs.resolve_mix(composed, load_data_preset)
    config = configs.check_evaluation(composed)
    hub.pin(config)
    if sweep is not None:
        folder = sweep / identity.run_name(overrides)
    elif config.run_dir:
        folder = Path(config.run_dir)
    else:
        folder = identity.new_directory(config.paths.output, "evaluate", config.reward.name)
    if folder.exists() and (folder.is_file() or any(folder.iterdir())):
        raise UserError(f"run_dir={folder}: is not empty; give a new folder")
    return Job(module, config, folder, index, list(overrides))


def evaluate(jobs: list[Job], config: DictConfig) -> Submission:
    """Evaluate one configuration after another, in this process."""
    if config.dry_run:
        for job in jobs:
            print(f"would evaluate reward={job.config.reward.name} on data={job.config.data.name} into {job.run_dir}")
        return Submission(DONE, [None] * len(jobs))
    from psychocounsel.engine.progress import quiet_libraries
    from psychocounsel.hub import set_cache_directories

    set_cache_directories(config.paths.cache)
    quiet_libraries()
    from psychocounsel.evaluation.reward_evaluation import evaluate_reward

    objectives = [evaluate_reward(job.config, job.run_dir, _say) for job in jobs]
    return Submission(DONE, list(objectives))


def _say(line: str) -> None:
    print(line, file=sys.stderr, flush=True)


if __name__ == "__main__":
    main("psychocounsel.evaluate", "evaluate", evaluate, compose)
