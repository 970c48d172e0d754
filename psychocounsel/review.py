"""`python -m psychocounsel.review data=my_preferences experts=[e01,e02]`: a page on which experts judge replies or cases blind.

data=FOLDER_OR_FILE       a folder of annotate, evaluate evaluation=winrate or audit, or a file of pairs: which reply helps more?
data=crisis_set           the shipped crisis set (give out=FOLDER), or the folder of another: which action is due?
data=GATE                 a folder of evaluate evaluation=gate with adjudicate.csv: has the counsellor failed?
experts=[e01,e02]         a pseudonym for each expert; each gets a secret link
out=FOLDER                default: `review` in the folder. The same folder again goes on; earlier options are known

review.items=100          items at most; those of clients at risk come first      review.overlap=2   experts an item; default all
                          of a gate all cases                                     review.seed=0
review.repeats=0.1        share that an expert sees twice                         review.only=FILE   items of its column `item`
review.rubric=en|FOLDER

Of pairs alone:
review.flagged=true       only items whose preference is in doubt
review.ratings=true       offer ratings of the principles                         review.safety=crisis|all|none   safety questions
review.practice=8         items to practise on first, 0 for none
review.practice_share=0.75  of them must agree with the rubric, within            review.practice_rounds=2

review.crisis_in_a_row=3  review.minutes_at_once=45  review.minutes_a_day=120     review.break_minutes=10
review.title=TEXT         review.consent=FILE        review.support=TEXT|FILE.md
review.contact.name=NAME  review.contact.reached_by=TEXT    review.contact.command=[PROGRAM,ARGUMENT]   is given each report

review.port=8000          on loopback; default: a free one
review.address=https://study.example/review   the address that a proxy serves it at
review.protocol=FOLDER    write the documents that an ethics board asks for, and end
"""

from psychocounsel.settings.command_line import run


def main(arguments: list[str]) -> int:
    """Run the command; returns its exit code."""
    from psychocounsel.errors import DONE
    from psychocounsel.experts.page.review_making import hold_review
    from psychocounsel.settings.typed.help_page import asks_for_help

    if asks_for_help(arguments):
        print(__doc__)
        return DONE
    return hold_review(arguments)


if __name__ == "__main__":
    run(main)
