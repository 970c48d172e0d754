"""The card of a trained model: what it was made of, and how it did."""

from typing import Any

from omegaconf import DictConfig, OmegaConf


def model_card(config: DictConfig, about: dict[str, Any]) -> str:
    """Text of `model/README.md`; `about` holds the step and the held-out figures of the weights."""
    algorithm = config.algo._target_.rsplit(".", 1)[-1]
    data = config.data.path or ", ".join(entry.path for entry in config.data.mix)
    figures = [f"| {name} | {value:.4f} |" for name, value in about.items() if name.startswith("eval/")]
    table = ["| held-out metric | value |", "|---|---|", *figures] if figures else ["No held-out data were given."]
    return "\n".join(
        [
            f"# {algorithm} of {config.model.name}",
            "",
            f"Trained with psychocounsel: step {about['step']} of `{algorithm}` from `{config.model.path}` "
            f"(revision {config.model.revision or 'not pinned'}) on `{data}`. "
            "The licences of the base model and of the data apply. Not for clinical use.",
            "",
            *table,
            "",
            "```yaml",
            OmegaConf.to_yaml(config.algo).rstrip(),
            "```",
            "",
        ]
    )
