"""Warnings about rankers whose accuracy may be biased, because they helped to make the pairs or a reward model."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path

from omegaconf import DictConfig

from psychocounsel.data.privacy import paths_of
from psychocounsel.data.rows import Example
from psychocounsel.evaluation.judging.judge_warnings import family_in, family_of, labellers_of
from psychocounsel.evaluation.reward.ranker import rankers_of
from psychocounsel.reward.sections import reward_sections
from psychocounsel.rundir.run_config import read_config
from psychocounsel.rundir.trained_runs import runs_of


def ranker_warnings(config: DictConfig, examples: Sequence[Example]) -> Iterator[str]:
    """Yield the warnings about each ranker of a configuration; `examples` are the pairs that it ranks."""
    labellers = {name for path in paths_of(config.data) if path for name in labellers_of(Path(path))}
    writers = [writer for example in examples for writer in example.writers or ()]
    for _, settings in rankers_of(config):
        model, name = settings.model(), f"warning: {settings.name}"
        own, family = {model.name, model.model}, family_of(model)
        kin = sorted(each for each in labellers if family and family_in(each) == family)
        if labellers & own:
            yield f"{name} labelled these pairs: its accuracy only measures agreement with itself"
        elif kin:
            yield f"{name} and {kin[0]}, which labelled these pairs, belong to one model family ({family}): they may share errors"
        for reward, known in _labellers_of_training(config).items():
            if known & own:
                yield f"{name} labelled the training data of {reward}, which learned to agree with it"
        share = sum(family_in(writer) == family for writer in writers) / len(writers) if writers and family else 0
        if share:
            yield (
                f"{name} belongs to the model family ({family}) that wrote {share:.0%} of these replies: models tend to prefer "
                "their own family"
            )


def _labellers_of_training(config: DictConfig) -> dict[str, set[str]]:
    """Return the annotators of the training data of each reward model that lies in a run, by the model's name."""
    found: dict[str, set[str]] = {}
    for _, section in reward_sections(config):
        for run in runs_of(section.get("path")):
            for path in paths_of(read_config(run).data):
                found.setdefault(section.name, set()).update(labellers_of(Path(path)) if path else ())
    return found
