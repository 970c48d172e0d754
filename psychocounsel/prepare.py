"""`psychocounsel prepare`: fetches the models and data of jobs on a login node, and checks the data.

  psychocounsel prepare experiment=paper_dpo_8b             for a training: the overrides of `psychocounsel train`
  psychocounsel prepare -m model=llama3_1_8b,qwen3_8b       for all runs of a sweep
  psychocounsel prepare --config-name evaluate ...          for an evaluation; audit, annotate and chat likewise

It lists the models and datasets with their sizes, downloads what the cache lacks, and records the commits, which later runs take.
Then it checks the rows as a job does, so that the job runs with HF_HUB_OFFLINE=1. All settings of the job can be typed.

dry_run=true             only lists the sizes
paths.cache=FOLDER       where models and data are kept
"""

import sys

if __name__ == "__main__":
    from psychocounsel.cluster.preparing import prepare
    from psychocounsel.commands.application import main
    from psychocounsel.commands.help import asks_for_help

    if asks_for_help(sys.argv[1:]):
        print(__doc__, end="")
    else:
        main("psychocounsel.train", prepare)
