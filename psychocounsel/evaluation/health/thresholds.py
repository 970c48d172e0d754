"""Every threshold of the figures of health, and the limits that the replies of a healthy model keep."""

GRAM = 4  # words in a run, for `repetition`

# `loop`: a span of words that stands there several times in a row.
LOOP_COPIES, LOOP_WORDS = 3, 12  # anywhere: as many copies or more, which together have so many words or more
TAIL_COPIES, TAIL_WORDS = 2, 20  # at the end of the reply, where a loop that was cut shows

JUNK_RUN = 8  # of one character in a row
JUNK_SHARE = 0.3  # of characters that are neither letter, number, mark nor space, from JUNK_CHARACTERS on
JUNK_CHARACTERS = 20

MTLD_RATIO = 0.72  # of different words to words, at which a factor is full (McCarthy and Jarvis 2010)
MTLD_WORDS = 50  # shorter replies fill too few factors

# The largest shares of replies. `beyond` holds intervals against them.
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
