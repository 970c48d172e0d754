"""Results as lines for a terminal, and as a Markdown table for RESULTS.md."""

from typing import Any

_PACKAGES = ("torch", "deepspeed", "transformers", "vllm", "liger_kernel", "triton")


def heading(report: dict[str, Any]) -> str:
    """Return one line with GPUs and versions."""
    gpus = [f"{gpu['name']} ({gpu['gb']:g} GB)" for gpu in report["gpus"]] or ["no GPU that torch can use"]
    versions = [f"{name} {report['packages'][name]}" for name in _PACKAGES if report["packages"].get(name)]
    return f"{', '.join(gpus)}; Python {report['python']}, {', '.join(versions)}"


def line(row: dict[str, Any]) -> str:
    return f"{row['name']:<13}{row['result']:<9}{row['seconds']:>5.0f} s  {row['about']}: {row['figure']} (goal: {row['goal']})"


def markdown(report: dict[str, Any]) -> str:
    """Return a sentence about the machine, and a table with a row for each check."""
    lines = [
        f"{report['date'][:10]}: {heading(report)}.",
        "",
        "| check | result | figure | goal |",
        "|---|---|---|---|",
    ]
    for row in report["rows"]:
        cells = (row["about"], row["result"], row["figure"], row["goal"])
        lines.append("| " + " | ".join(cell.replace("|", "\\|") for cell in cells) + " |")
    return "\n".join(lines)
