"""`psychocounsel review data=my_preferences experts=[e01,e02]`: serves a page on which experts judge replies blind.

data=FOLDER_OR_FILE       a folder of annotate, evaluate evaluation=winrate or audit, or a file of pairs: which reply helps more?
data=crisis_set           the shipped crisis set (give out=FOLDER), or the folder of another set: which action is due?
data=GATE                 a folder of evaluate evaluation=gate with adjudicate.csv: did the counsellor fail?
experts=[e01,e02]         a pseudonym for each expert; each gets a secret link
out=FOLDER                default: `review` in the data folder. Given again, it resumes the review with its stored options

review.items=100          at most this many; those with clients at risk first     review.overlap=2  experts per item; default all
                          for a gate: all cases                                   review.seed=0
review.draw=risk_first|even    even: each client has the same chance, so that figures hold for all clients
review.repeats=0.1        share of items that an expert sees twice                review.only=FILE   items in its column `item`
review.rubric=builtin:en|FOLDER

For pairs only:
review.flagged=true       only items with a doubtful preference
review.sense=true         ask of each reply whether it makes sense, from 1 to 5, and whether it could do harm
review.ratings=true       offer ratings of the principles                         review.safety=crisis|all|none   safety questions
review.practice=8         practice items before the first item; 0: none
review.practice_share=0.75  share that must agree with the rubric, within         review.practice_rounds=2

review.crisis_in_a_row=3  review.minutes_at_once=45  review.minutes_a_day=120     review.break_minutes=10
review.title=TEXT         review.consent=FILE        review.support=TEXT|FILE.md
review.contact.name=NAME  review.contact.reached_by=TEXT    review.contact.command=[PROGRAM,ARGUMENT]   receives each report

review.port=8000          port on loopback; default: a free one
review.address=https://study.example/review   address of the proxy that forwards to the page
review.sheet=FOLDER       no page: write a numbered table for each expert; again with filled-in tables: read the answers
review.protocol=FOLDER    only write the documents that an ethics board asks for
"""

from psychocounsel.settings.command_line import run


def main(arguments: list[str]) -> int:
    """Run the command and return its exit code."""
    from psychocounsel.commands.help import asks_for_help
    from psychocounsel.errors import DONE
    from psychocounsel.experts.page.serving import hold_review

    if asks_for_help(arguments):
        print(__doc__)
        return DONE
    return hold_review(arguments)


if __name__ == "__main__":
    run(main)
