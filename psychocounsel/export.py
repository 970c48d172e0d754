"""`python -m psychocounsel.export RUN [step=N] [merge=true] [to=FOLDER] [push=ORG/NAME] [public=true]`.

Writes a run's best model, or that of a checkpoint, as a Hugging Face folder with its card, and can push it to the hub.

  step=N          the weights of checkpoint N instead of the best
  merge=true      a LoRA adapter and its base as one model
  to=FOLDER       where to; default: RUN/export
  push=ORG/NAME   upload it, to a private repository
  public=true     upload it to a public repository instead
"""

import sys
from pathlib import Path

from omegaconf.errors import ConfigAttributeError

from psychocounsel.errors import CONTINUE_LATER, USER_ERROR, UserError

_KEYS = ("step", "merge", "to", "push", "public")


def main(arguments: list[str]) -> None:
    run, given = _parse(arguments)
    step = _number(given["step"]) if "step" in given else None
    merge, public = (_switch(key, given.get(key, "false")) for key in ("merge", "public"))
    if public and "push" not in given:
        raise UserError("public=true says how to push: add push=ORG/NAME")
    if "push" in given and given["push"].count("/") != 1:
        raise UserError(f"push={given['push']}: give ORG/NAME")
    from psychocounsel.cluster.job import read_run

    _, config = read_run(run)
    sys.path.extend(path for path in config.code_path if path not in sys.path)  # to an algorithm of the user's own
    folder = Path(given["to"]).expanduser() if given.get("to") else run / "export"
    place = folder.resolve()
    _check_replaceable(place, folder, run)
    from psychocounsel.engine.telemetry.progress import quiet_libraries
    from psychocounsel.remote.hub import set_cache_directories

    set_cache_directories(config.paths.cache)
    quiet_libraries()
    from psychocounsel.engine.checkpoints.publish import assemble, push

    about = assemble(run, config, step, merge, place)
    print(f"{folder}: the weights of step {about['step']}, with README.md as their card")
    if "push" in given:
        print(f"pushed to {push(place, given['push'], public)} ({'public' if public else 'private'})")


def _parse(arguments: list[str]) -> tuple[Path, dict[str, str]]:
    runs = [text for text in arguments if "=" not in text]
    given = dict(text.split("=", 1) for text in arguments if "=" in text)
    for key in given:
        if key not in _KEYS:
            raise UserError(f"unknown key {key}: the keys are {', '.join(_KEYS)}")
    if len(runs) != 1:
        raise UserError("give one run directory: python -m psychocounsel.export RUN [step=N] [push=ORG/NAME]")
    return Path(runs[0]), given


def _check_replaceable(place: Path, folder: Path, run: Path) -> None:
    """Only an earlier export may be replaced: no run, no run's model, and nothing else."""
    if place == run.resolve() or (place.name == "model" and (place.parent / "job.json").exists()):
        raise UserError(f"to={folder}: would replace a part of a run; give another folder")
    if place.is_file():
        raise UserError(f"to={folder}: is a file; give a folder")
    if place.exists() and any(place.iterdir()) and not (place / "psychocounsel.json").exists():
        raise UserError(f"to={folder}: holds other files; give a new or empty folder")


def _number(text: str) -> int:
    if not text.isdecimal():
        raise UserError(f"step={text}: give the number of a checkpoint")
    return int(text)


def _switch(key: str, text: str) -> bool:
    if text.lower() not in ("true", "false"):
        raise UserError(f"{key}={text}: give true or false")
    return text.lower() == "true"


if __name__ == "__main__":
    if {"-h", "--help"} & set(sys.argv[1:]):
        print(__doc__)
        sys.exit()
    try:
        main(sys.argv[1:])
    except ConfigAttributeError as error:
        problem = (
            f"the run was made by another version of psychocounsel (no key {error.full_key}); its code.txt says which"
        )
        print(f"error: {problem}", file=sys.stderr)
        sys.exit(USER_ERROR)
    except (UserError, OSError) as error:
        from psychocounsel.settings.messages import one_line

        print(f"error: {one_line(error, sys.argv[1:])}", file=sys.stderr)
        sys.exit(USER_ERROR)
    except KeyboardInterrupt:
        print("stopped: an earlier export is as it was", file=sys.stderr)
        sys.exit(CONTINUE_LATER)
