"""Blocks as lines: aligned tables with intervals and units, notes once, conclusions and warnings last, no chart, no reply."""

from psychocounsel.blocks.kinds import Chart, Paragraph, ReportTable, ShownSpeech, SpeechBrowser
from psychocounsel.blocks.tables import Table, TableFigure
from psychocounsel.blocks.terminal import encodable, terminal_lines

SHARES = Table(
    "Shares",
    ["contestant", "loop"],
    [["mine", TableFigure(0.31, low=0.22, high=0.4, percent=True)], ["the base", None]],
    ["over speeches"],
)


def test_blocks_become_lines() -> None:
    hidden = [Chart("a", "a", "a", []), SpeechBrowser("b", [ShownSpeech("I cry", [])])]
    words = Table(
        "Words", ["contestant", "words"], [["mine", TableFigure(12.0, low=9.5, high=14.0)]], ["over speeches"]
    )
    conclusions = [Paragraph("few clients", "warning"), Paragraph("no loops", "good")]
    blocks = [*conclusions, *hidden, ReportTable("s", SHARES), ReportTable("w", words)]
    brackets = "brackets contain the 95 % interval over prompts of one run, whose spread over seeds is unknown"
    assert [*terminal_lines([*blocks, Paragraph("done")])] == [
        "",
        "Shares",
        "  contestant  loop (%)",
        "  mine        31.0 (22.0 to 40.0)",
        "  the base    -",
        f"  * {brackets}",
        "  * -: not measured, or not finished",
        "  * over speeches",
        "",
        "Words",
        "  contestant  words",
        "  mine        12 (9.5 to 14)",
        "done",
        "warning: few clients",
        "no loops",
    ]


def test_signs_that_an_encoding_lacks_become_ascii() -> None:
    assert encodable("61.2 ± 1.5 │ x…", "ascii") == "61.2 +- 1.5 | x..."
    assert encodable("61.2 ± 1.5", "latin-1") == "61.2 ± 1.5"
    assert encodable("Ж", "ascii") == "?" and encodable("Ж", "no such encoding") == "?"
