"""Rows of jobs as training will see them: tokenised, counted, and stored in the cache that the jobs read."""

import json
from collections.abc import Callable, Iterator, Sequence
from itertools import groupby
from typing import Any

from omegaconf import OmegaConf

from psychocounsel.cluster.job import Job
from psychocounsel.errors import UserError
from psychocounsel.evaluation.part import evaluated_part
from psychocounsel.settings import config as configs
from psychocounsel.settings.targets import add_code_path
from psychocounsel.storage.files import with_noun

Say = Callable[[str], None]


def count_rows(jobs: Sequence[Job], say: Say) -> Iterator[str]:
    """Check the rows of `jobs`, tokenised for trainings, and yield lines with their counts; jobs with equal rows share one pass.

    Jobs that read no rows of `data` are skipped. Imports torch.

    Raises:
        UserError: if rows are unusable; with several trainings it names the overrides.
    """
    from psychocounsel.model.quiet import quiet_libraries

    jobs = [job for job in jobs if job.command.reads_rows(job.config)]
    if not jobs:
        return
    quiet_libraries()
    add_code_path(folder for job in jobs for folder in job.config.code_path)
    if not jobs[0].command.trains:
        yield from _of_evaluations(jobs, say)
        return
    for _, alike in groupby(sorted(jobs, key=rows_key), rows_key):
        yield _of_trainings(list(alike), say, len(jobs) > 1)


def rows_key(job: Job) -> str:
    """Return a key of everything that the rows depend on."""
    config: Any = OmegaConf.to_container(job.config)
    if not job.command.trains:
        return json.dumps([config["data"], str(evaluated_part(job.config))], sort_keys=True)
    model = {key: config["model"][key] for key in ("path", "revision", "chat_template", "template_args")}
    lengths = [config[key] for key in ("max_length", "max_prompt_length")]
    algorithm = configs.build(job.config, "algo")
    needs, mixes = algorithm.needs, algorithm.offline_groups(job.config.global_batch_size) > 0
    rows = [config["data"], lengths, config["eval"]["limit"], config["eval"]["replies"], needs.data, mixes]
    return json.dumps([model, rows, needs.main], sort_keys=True)


def _of_trainings(alike: Sequence[Job], say: Say, of_several: bool) -> str:
    from psychocounsel.data.dataset import build_dataset
    from psychocounsel.engine.schedule import steps_of
    from psychocounsel.model.tokenizer import load_chat_format

    tokenizer, data, steps = None, None, []
    for job in alike:
        try:
            algorithm = configs.build(job.config, "algo")
            if data is None:
                tokenizer, chat = load_chat_format(job.config.model, scores=algorithm.needs.main == "reward_model")
                mixes = algorithm.offline_groups(job.config.global_batch_size) > 0
                data = build_dataset(job.config, chat, algorithm.needs.data, say, mixes)
            algorithm.check_tokenizer(tokenizer)
            algorithm.check(data.train, data.held_out)
            steps.append(steps_of(job.config, algorithm, data.rows))
        except UserError as error:
            raise UserError(f"combination {' '.join(job.overrides)}: {error}" if of_several else error) from error
    assert data is not None
    config = alike[0].config
    for line in data.few_prompts(config.data.dev_fraction != 0):
        say(line)
    fewest, most = min(steps), max(steps)
    return (
        f"{config.model.name} with data={config.data.name}: {with_noun(data.rows, 'training group')}, "
        f"{with_noun(len(data.held_out), 'held-out group')} of {with_noun(data.distinct_prompts, 'prompt')}, "
        + (with_noun(fewest, "step") if fewest == most else f"{fewest} to {most} steps")
    )


def _of_evaluations(jobs: Sequence[Job], say: Say) -> Iterator[str]:
    from psychocounsel.data.selection import no_pairs
    from psychocounsel.data.shared_text import normalised
    from psychocounsel.evaluation.part import load_evaluated

    for job in {rows_key(job): job for job in jobs}.values():
        config = job.config
        rows = load_evaluated(config, say)
        needs_pairs = config.get("contestants") is None  # contestants reply to prompts and need no pairs
        if not rows.used or (needs_pairs and any(len(example.replies) < 2 for example in rows.used)):
            raise no_pairs(job.command.name)
        used, whole = (
            len(examples) if needs_pairs else len({normalised(example.prompt) for example in examples})
            for examples in (rows.used, rows.whole)
        )
        yield rows.part.line(config, used, whole, "pairs" if needs_pairs else "speeches")
