"""Model card of a trained model: its origin, licences and evaluation."""

from pathlib import Path
from typing import Any

import yaml
from omegaconf import DictConfig, OmegaConf

from psychocounsel.data.licences import identifier, strictest
from psychocounsel.model.tokenizer import resolve_path
from psychocounsel.settings import config as configs


def model_card(config: DictConfig, about: dict[str, Any]) -> str:
    """Return the text of `model/README.md`; `about` holds the step and the held-out figures of the weights."""
    algorithm = config.algo._target_.rsplit(".", 1)[-1]
    licences = [("base model", model_licence(config.model)), *_data_licences(config.data)]
    front = _front_matter(config, algorithm, [licence for _, licence in licences])
    figures = [f"| {name} | {value:.4f} |" for name, value in about.items() if name.startswith("eval/")]
    table = ["| held-out metric | value |", "|---|---|", *figures] if figures else ["These weights were not evaluated."]
    made = f"`{algorithm}` from `{_public(config.model.path)}` (revision {config.model.revision or 'not pinned'})"
    return "\n".join(
        [
            "---",
            yaml.safe_dump(front, sort_keys=False).rstrip(),
            "---",
            "",
            f"# {algorithm} of {config.model.name}",
            "",
            f"Trained with psychocounsel: step {about['step']} of {made} on {', '.join(map(_public, _sources(config)))}. "
            "Not for clinical use.",
            "",
            "## Licence",
            "",
            *(f"- {what}: {licence or 'unknown, ask its authors'}" for what, licence in dict.fromkeys(licences)),
            "",
            "All these licences apply. The metadata above names the strictest.",
            "",
            "## Evaluation",
            "",
            *table,
            "",
            "## Configuration",
            "",
            "```yaml",
            OmegaConf.to_yaml(_shown(config)).rstrip(),
            "```",
            "",
        ]
    )


def model_licence(model: DictConfig) -> str | None:
    """Return the licence in the config, or otherwise the one in the model's own card (in its folder or the hub's cache)."""
    if model.license:
        return identifier(model.license)
    path = Path(resolve_path(model.path))
    card: Path | str | None = path / "README.md"
    if not path.is_dir() and not path.is_absolute():
        from huggingface_hub import try_to_load_from_cache

        found = try_to_load_from_cache(model.path, "README.md", revision=model.revision)
        card = found if isinstance(found, str) else None
    return _licence_of(Path(card)) if card and Path(card).is_file() else None


def _licence_of(card: Path) -> str | None:
    """Return the licence in a card's front matter; for the licence "other", its name. None if there is none."""
    before, _, rest = card.read_text(encoding="utf-8-sig", errors="replace").partition("---\n")
    if before.strip():
        return None
    try:
        front = yaml.safe_load(rest.partition("\n---")[0])
    except (yaml.YAMLError, ValueError):  # ValueError: an impossible date
        return None
    if not isinstance(front, dict):
        return None
    licence = front.get("license")
    return identifier(front.get("license_name") if licence == "other" else licence)


def _data_licences(data: DictConfig) -> list[tuple[str, str | None]]:
    if not data.mix:
        return [(f"data {data.name}", identifier(data.license))]
    return [(f"data {entry.name or _public(entry.path)}", identifier(entry.license)) for entry in data.mix]


def _sources(config: DictConfig) -> list[str]:
    return [entry.path for entry in config.data.mix] or [config.data.path or config.data.name]


def _public(path: str) -> str:
    """Return hub ids unchanged, and only the last part of a local path, because folders of a machine mean nothing to others."""
    return Path(path).name if path.startswith(("/", ".", "~")) else path


def _front_matter(config: DictConfig, algorithm: str, licences: list[str | None]) -> dict[str, Any]:
    licence = strictest(licences)
    front: dict[str, Any] = {"license": licence}
    if licence == "other":
        front["license_name"] = "-and-".join(sorted({name or "unknown" for name in licences}))
    adapter = config.model.lora.rank and not config.model.lora.merge
    front["library_name"] = "peft" if adapter else "transformers"
    scores = configs.target_class(config, "algo").needs.main == "reward_model"
    front["pipeline_tag"] = "text-classification" if scores else "text-generation"
    hub_ids = [path for path in dict.fromkeys(_sources(config)) if path == _public(path) and "/" in path]
    if config.model.path == _public(config.model.path) and ":" not in config.model.path:
        front["base_model"] = config.model.path
    if hub_ids:
        front["datasets"] = hub_ids
    front["tags"] = ["psychocounsel", algorithm.lower()]
    return front


def _shown(config: DictConfig) -> DictConfig:
    """Return the settings that determined the model, without those of the machine and its folders."""
    keys = ("seed", "epochs", "max_steps", "global_batch_size", "max_length", "max_prompt_length")
    algo = {name: _public(value) if isinstance(value, str) else value for name, value in config.algo.items()}
    return OmegaConf.create({**{key: config[key] for key in keys}, "algo": algo, "lora": config.model.lora})
