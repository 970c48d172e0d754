"""Thresholds of the health figures, and the limits that the replies of a healthy model keep."""

GRAM = 4  # words in a run, for `repetition`

# A `loop` is a span of words that is repeated several times in a row.
LOOP_COPIES, LOOP_WORDS = 3, 12  # anywhere: least number of copies, and least number of words of all copies together
TAIL_COPIES, TAIL_WORDS = 2, 20  # the same at the end of a reply, where a loop may have been cut

JUNK_RUN = 8  # copies of one character in a row
JUNK_SHARE = 0.3  # largest allowed share of odd symbols in a text of at least JUNK_CHARACTERS characters
JUNK_CHARACTERS = 20

MTLD_RATIO = 0.72  # type-token ratio at which a factor is full (McCarthy and Jarvis 2010)
MTLD_WORDS = 50  # shorter replies fill too few factors

# Largest allowed shares of replies; `beyond` compares intervals with them.
LIMITS = {
    "empty": 0.01,
    "refusal": 0.05,
    "cut": 0.05,
    "unfinished": 0.10,
    "loop": 0.02,
    "invented_turns": 0.01,
    "leaked_tokens": 0.01,
    "junk": 0.01,
    "other_language": 0.02,
}
