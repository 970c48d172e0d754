"""`psychocounsel agreement data=answers.jsonl`: measures the agreement of raters, and plans sample sizes.

data=FILE_OR_FOLDER       a table of answers (.jsonl, .csv, .tsv, .parquet), or a folder with answers.jsonl (docs/experts.md)
out=FOLDER                default: `agreement` beside the table
agreement.columns={item: id, rater: annotator}    the table's names of columns        agreement.values={A: left, B: right}
agreement.dimensions=[empathy,clarity]            columns that each hold a rating     agreement.rating_range=[1,6]
agreement.not_rated=[0]                           ratings that mean "does not apply"
agreement.sides=shown|balanced|label    agreement.ties=category|drop|half    agreement.harmful=category|drop|tie
agreement.weights=quadratic|linear      agreement.adjudicators=[e09]         agreement.least_items=10
agreement.samples=1000                  agreement.seed=0

plan.kind=kappa           items for an interval of kappa:       plan.kappa=0.6 plan.prevalence=0.5 plan.half_width=0.1
plan.kind=failures        cases for a bound on a failure rate:  plan.ceiling=0.01 plan.true_rate=0.002 plan.power=0.8
plan.kind=noninferiority  paired cases for non-inferiority:     plan.margin=0.05 plan.discordant=0.1 plan.power=0.8
plan.per_speech=2 plan.correlation=0.3            items per speech and their correlation
"""

from psychocounsel.settings.command_line import run


def main(arguments: list[str]) -> int:
    """Run the command and return its exit code."""
    from psychocounsel.commands.help import asks_for_help
    from psychocounsel.errors import DONE
    from psychocounsel.experts.agreement.report import make_agreement
    from psychocounsel.experts.sample_sizes import plan_lines
    from psychocounsel.experts.settings import read_agreement

    if asks_for_help(arguments):
        print(__doc__)
        return DONE
    config = read_agreement(arguments)
    if config.plan.kind:
        print("\n".join(plan_lines(config.plan)))
    if config.data is not None:
        print("\n".join(make_agreement(config)))
    return DONE


if __name__ == "__main__":
    run(main)
