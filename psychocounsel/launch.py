"""`psychocounsel launch study=NAME`: runs all stages of an experiment, from data to its tables, by one command.

  psychocounsel launch study=quickstart                     locally, in studies/quickstart
  psychocounsel launch study=mine.yaml study_dir=DIR VALUE=X STAGE.KEY=VALUE cluster=slurm

study=NAME|FILE.yaml     a shipped study, or your own file (docs/studies.md)
study_dir=DIR            its folder; the same command again skips finished runs and resumes the others
VALUE=X                  a value of the study: model=qwen3_8b seeds=[4,5]
STAGE.KEY=VALUE          an override of one stage: dpo.algo.lr=1e-6
cluster=  paths.  tracker=   are passed to every stage
only=[STAGE]             only these stages            start_at=STAGE    this stage and those that follow it
force=[STAGE]            repeats stages in new folders, and those that follow them
parallel=N               N runs at a time, on this machine   dry_run=true      the graph, jobs, GPU-hours, calls and cost
--config-dir DIR         your own configurations and code

Shipped studies:
"""

from collections.abc import Sequence

from psychocounsel.studies.own_jobs import COMMAND as COMMAND  # workers of a study's own jobs import it from here


def completions(before: Sequence[str], word: str) -> list[str]:
    """Return the words that TAB proposes: shipped studies, or the command's keys."""
    from psychocounsel.studies.launching import KEYS
    from psychocounsel.studies.study_file import shipped_studies

    return [f"study={name}" for name in shipped_studies()] if word.startswith("study=") else [f"{key}=" for key in KEYS]


def main(arguments: list[str]) -> int:
    """Run the command and return its exit code. All mistakes in a study are printed, one per line."""
    import sys

    from psychocounsel.commands.help import asks_for_help
    from psychocounsel.errors import DONE, USER_ERROR
    from psychocounsel.studies.launching import launch, read_arguments
    from psychocounsel.studies.plan import StudyErrors
    from psychocounsel.studies.study_file import summaries

    if asks_for_help(arguments):
        print(f"{__doc__}{summaries()}")
        return DONE
    try:
        return launch(read_arguments(arguments))
    except StudyErrors as error:
        for line in error.lines:
            print(f"error: {line}", file=sys.stderr)
        return USER_ERROR


if __name__ == "__main__":
    from hydra.errors import HydraException

    from psychocounsel.settings.command_line import run

    run(main, HydraException)
