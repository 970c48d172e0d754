"""A report of hand-made blocks, one of every kind, with texts that would be markup if the page did not escape them."""

import math
from collections.abc import Sequence

from psychocounsel.blocks.kinds import (
    Chart,
    Curve,
    Paragraph,
    Report,
    ReportTable,
    Section,
    ShownReply,
    ShownSpeech,
    SpeechBrowser,
)
from psychocounsel.blocks.tables import Cell, Table, TableFigure

HOSTILE = "<script>window.broken = 1</script><img src=x onerror='window.broken = 2'> & \u2028 ${window.broken=3}"
RATES = [0.5432, 0.6123456, None, 0.71, 0.48, 0.66, 0.6, 0.595, 0.52, 0.531, 0.449, 0.7001, 0.64, 0.62]


def loss(step: int, seed: int = 0, slower: float = 1.0) -> float:
    return 0.25 + 0.45 * math.exp(-step / (60 * slower)) + 0.03 * math.sin(step * (1.7 + seed)) * math.exp(-step / 200)


def curves(count: int = 200) -> list[Curve]:
    """Return curves of three settings with two seeds each."""
    steps = list(range(1, count + 1))
    x = {"steps": steps, "tokens": [81_920 * step for step in steps], "GPU-hours": [0.0021 * step for step in steps]}
    return [
        Curve(f"{setting}, seed={seed}", x, [loss(step, seed, 1 + n) for step in steps], group=setting)
        for n, setting in enumerate(("algo=dpo, algo.beta=0.1", "algo=dpo, algo.beta=0.3", "algo=simpo"))
        for seed in (1, 2)
    ]


def band() -> Curve:
    steps = list(range(0, 200, 10))
    y = [0.5 + 0.2 * (1 - math.exp(-step / 80)) for step in steps]
    low, high = [value - 0.04 for value in y], [value + 0.03 for value in y]
    return Curve("win rate", {"steps": steps}, y, low, high, [f"{n} of 300 replies" for n in range(20)])


def forest() -> Chart:
    names = ("win rate", "at equal length")
    found = []
    for n, name in enumerate(names):
        x = {"comparison": [place + 0.2 * (n - 0.5) for place in range(3)]}
        y = [0.62 - 0.05 * n, 0.55, 0.47 + 0.02 * n]
        found.append(Curve(name, x, y, [v - 0.06 for v in y], [v + 0.06 for v in y], points=True))
    ticks = ["algo=dpo,algo.beta=0.1: tuned against base", "algo=simpo: tuned against base", f"tuned against {HOSTILE}"]
    notes = ["At one half, both sides are preferred equally often."]
    return Chart("forest", "Win rates with their intervals", "win rate", found, ticks=ticks, reference=0.5, notes=notes)


def table() -> ReportTable:
    rows: list[list[Cell]] = [
        [
            f"algo=dpo, algo.beta={0.1 * n:.1f}, optimizer.lr=1e-{n % 4 + 5}",
            None if rate is None else TableFigure(rate, 0.012 + n / 1000, rate - 0.03, rate + 0.03, 3, percent=True),
            TableFigure(0.3 + n / 70),
            str(10 * n),
            "finished" if n % 5 else "failed: out of memory",
        ]
        for n, rate in enumerate(RATES, 1)
    ]
    headings = ["setting", "win rate", "held-out loss", "GPU-minutes", "status"]
    return ReportTable("final", Table("Final table", headings, rows))


def speeches() -> SpeechBrowser:
    base = "It sounds like you are very tired. Have you tried to sleep more? I would suggest a fixed bedtime."
    tuned = "It sounds like you are very tired, and alone with it. What would a good evening look like for you?"
    empathy = {"empathy": 3.25, "exploration": 2.0, "reward model": -0.7312}
    replies = [ShownReply("base", base, empathy), ShownReply("algo=dpo", tuned, {**empathy, "empathy": 4.5})]
    said = "I work nights and sleep by day, and my flat is loud. " * 4
    last = "I don't know whether I want to go on."
    return SpeechBrowser(
        "replies",
        [
            ShownSpeech(said, [*replies, ShownReply("algo=simpo", "Tell me more.")], "work", "low"),
            ShownSpeech(
                HOSTILE, [ShownReply(HOSTILE, HOSTILE), ShownReply("other", HOSTILE + " again")], "family", "low"
            ),
            ShownSpeech(last, replies, "mood", "high", crisis=True),
            ShownSpeech("My sister does not call me any more.", replies, "family", "medium"),
        ],
    )


def report(live: bool = False, more: Sequence[Section] = ()) -> Report:
    small = Table("Hyperparameters that differ", ["key", "values"], [["algo.beta", "0.1, 0.3"], [HOSTILE, "1"]])
    question = [
        Paragraph("Six runs, which differ in algo and algo.beta: which replies are preferred?"),
        Paragraph("algo.beta=0.1 is preferred to the base in 62 % of speeches (95 % interval 58 to 66 %).", "good"),
        Paragraph("algo=simpo has one seed: its spread is unknown.", "warning"),
        Paragraph(f"runs/7: failed. {HOSTILE} {'experts=[a/b],' * 20}", "bad"),
        ReportTable("differs", small),
    ]
    charts = [
        Chart("loss", "Training loss", "loss (nats)", curves(), smooths=True, notes=["Lower is better."]),
        Chart("rounds", "Win rate by step", "win rate", [band()], reference=0.5),
        Chart("calibration", "Calibration", "share chosen", [_calibration()], diagonal=True),
        forest(),
        Chart("nothing", "Accuracy", "accuracy", []),
    ]
    sections = [
        Section("question", "The question", question),
        Section("empty", "Without blocks"),
        Section("training", "Training curves", charts),
        Section("table", "Final table", [table()]),
        Section("replies", "Replies side by side", [speeches()]),
        *more,
    ]
    return Report(
        "Does a smaller β make better replies?", ["runs/beta", "sweeps/simpo"], sections, live, confidential=live
    )


def _calibration() -> Curve:
    x = [0.05 + 0.1 * n for n in range(10)]
    return Curve("reward model", {"probability of being chosen": x}, [value**1.15 for value in x])
