"""`psychocounsel export RUN [step=N] [merge=true] [to=FOLDER] [push=ORG/NAME] [public=true]`.

Writes a run's best model or a checkpoint as a Hugging Face folder with a model card, and can upload it to the hub.
  step=N          the weights of checkpoint N instead of the best
  merge=true      merge a LoRA adapter into its base model
  to=FOLDER       folder to write; default: RUN/export
  push=ORG/NAME   upload it, to a private repository
  public=true     upload it to a public repository instead
"""

import sys
from pathlib import Path

from psychocounsel.errors import CONTINUE_LATER, DONE, UserError
from psychocounsel.settings.command_line import run
from psychocounsel.storage.weight_files import refuse_gguf

_KEYS = ("step", "merge", "to", "push", "public")


def main(arguments: list[str]) -> int:
    if {"-h", "--help"} & set(arguments):
        print(__doc__)
        return DONE
    runs = [text for text in arguments if "=" not in text]
    given = dict[str, str]()
    for key, value in (text.split("=", 1) for text in arguments if "=" in text):
        if key not in _KEYS:
            raise UserError(f"unknown key {key}: the keys are {', '.join(_KEYS)}")
        if key in given:
            raise UserError(f"{key}={value}: is given twice")
        given[key] = value
    if len(runs) != 1:
        raise UserError("give one run directory: psychocounsel export RUN [step=N] [push=ORG/NAME]")
    step, repository = given.get("step"), given.get("push")
    merge, public = (_switch(key, given.get(key, "false")) for key in ("merge", "public"))
    if step is not None and not (step.isascii() and step.isdecimal()):
        raise UserError(f"step={step}: give the number of a checkpoint")
    if given.get("to") == "":
        raise UserError("to=: give to=FOLDER, or leave it out")
    if public and repository is None:
        raise UserError("public=true has no effect without push: add push=ORG/NAME")
    if repository is not None and repository.count("/") != 1:
        raise UserError(f"push={repository}: give ORG/NAME")
    refuse_gguf(runs[0], "")
    from psychocounsel.engine.checkpoints.export import Export, export_run

    try:
        export_run(
            Path(runs[0]), Export(None if step is None else int(step), merge, given.get("to"), repository, public)
        )
    except KeyboardInterrupt:
        print("stopped: an earlier export is unchanged", file=sys.stderr)
        return CONTINUE_LATER
    return DONE


def _switch(key: str, text: str) -> bool:
    if text.lower() not in ("true", "false"):
        raise UserError(f"{key}={text}: give true or false")
    return text.lower() == "true"


if __name__ == "__main__":
    run(main)
