"""Tests of the page's charts in a real browser: hover texts, axes, smoothing, legend, long curves."""

import json
from itertools import pairwise
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import pytest

from psychocounsel.blocks.kinds import Chart, Curve, Report, Section
from psychocounsel.reporting import page as page_room
from psychocounsel.reporting.page import views
from tests.reporting.page.made_blocks import curves, report


@pytest.fixture(scope="module")
def opened(browser: Any, tmp_path_factory: pytest.TempPathFactory) -> Any:
    path = tmp_path_factory.mktemp("charts") / "report.html"
    page_room.write(report(), path)
    page = browser.new_page(viewport={"width": 1280, "height": 900})
    page.goto(path.as_uri())
    yield page
    page.close()


def shown(page: Any, name: str) -> Any:
    """Return the figure after scrolling to it and waiting until it is drawn."""
    figure = page.locator(f"#chart-{name}")
    figure.scroll_into_view_if_needed()
    page.locator(f"#chart-{name}[data-drawn] .main-svg").first.wait_for()
    return figure


def lines(figure: Any) -> list[str]:
    """Return the drawn lines as SVG paths."""
    return [path.get_attribute("d") for path in figure.locator(".js-line").all()]


def hover(page: Any, figure: Any, point: int) -> str:
    """Return the hover text over a point of the last curve."""
    mark = figure.locator(".scatterlayer .trace").last.locator(".point").nth(point).bounding_box()
    page.mouse.move(mark["x"] + mark["width"] / 2 - 3, mark["y"] + mark["height"] / 2)
    page.mouse.move(mark["x"] + mark["width"] / 2, mark["y"] + mark["height"] / 2)
    figure.locator(".hoverlayer .hovertext").first.wait_for()
    return str(figure.locator(".hoverlayer").text_content())


def test_hovering_shows_the_exact_value(opened: Any) -> None:
    figure = shown(opened, "rounds")
    [curve] = next(block for block in blocks() if block.name == "rounds").curves
    said = hover(opened, figure, 7)
    assert f"win rate: {curve.y[7]!r}" in said and "steps: 70" in said
    assert f"{curve.low[7]!r} to {curve.high[7]!r}" in said and "7 of 300 replies" in said


def test_hovering_over_a_place_with_a_name_shows_the_name(opened: Any) -> None:
    figure = shown(opened, "forest")
    said = hover(opened, figure, 2)
    assert "<script>window.broken" in said, "as text"
    assert "win rate: 0.49" in said


def test_an_interval_without_width_is_a_dash_with_its_reason(opened: Any) -> None:
    curve = Curve("a", {"steps": [0, 90_960], "GPU-hours": [0.0, 0.5]}, [0.5, 0.6], [0.5, 0.4], [0.5, 0.8])
    view = views.ChartView(Chart("wins", "Wins", "share", [curve]), 10, {})
    assert view.axes == ["steps", "GPU-minutes"] and view.data["curves"][0]["x"]["GPU-minutes"] == [0, 30]
    assert [[cell.text for cell in row] for row in view.table.rows] == [
        ["a", "0", "0", "0.5", "-", "-"],
        ["a", "90,960", "30", "0.6", "0.4", "0.8"],
    ]
    reason = "no interval, because all groups have this value: too few decide it"
    assert any(reason in note for note in view.table.notes)
    shown_text = "([data, curve, place]) => intervalText(data, curve, place)"
    assert opened.evaluate(shown_text, [view.data, view.data["curves"][0], 0]) == f"- ({reason})"
    assert opened.evaluate(shown_text, [view.data, view.data["curves"][0], 1]) == "0.4 to 0.8"


def test_the_reader_chooses_the_axis(opened: Any) -> None:
    figure = shown(opened, "loss")
    assert figure.locator(".xtitle").text_content() == "steps"
    figure.locator(".axis").select_option("GPU-minutes")
    assert figure.locator(".xtitle").text_content() == "GPU-minutes", "the runs are short"
    labels = figure.locator(".xtick text").all_text_contents()
    assert 10 < max(map(float, labels)) <= 0.0021 * 200 * 60
    figure.locator(".axis").select_option("steps")


def test_smoothing_makes_curves_smoother_and_none_gives_them_back(opened: Any) -> None:
    figure = shown(opened, "loss")
    before = lines(figure)
    figure.locator(".smoothing").fill("0.9")
    after = lines(figure)
    assert figure.locator(".smoothing + output").text_content() == "0.90"
    assert len(after) == len(before) == 6 and roughness(after[0]) < 0.5 * roughness(before[0])
    figure.locator(".smoothing").fill("0")
    assert lines(figure) == before


def roughness(path: str) -> float:
    """Return the sum of rises of the line, which is small for a smooth falling loss."""
    heights = [float(place.split(",")[1]) for place in path[1:].replace("L", " ").split() if "," in place]
    return sum(max(0, one - other) for one, other in pairwise(heights))


def test_the_legend_hides_a_group_and_shows_it_again(opened: Any) -> None:
    figure = shown(opened, "loss")
    first = figure.get_by_role("button", name="algo.beta=0.1")
    first.press("Enter")
    assert first.get_attribute("aria-pressed") == "false" and len(lines(figure)) == 4
    figure.get_by_role("button", name="All").click()
    assert first.get_attribute("aria-pressed") == "true" and len(lines(figure)) == 6


def test_a_zoomed_chart_shows_the_whole_again(opened: Any) -> None:
    figure = shown(opened, "loss")
    whole = figure.locator(".xtick text").all_text_contents()
    area = figure.locator(".nsewdrag").first.bounding_box()
    middle = area["y"] + area["height"] / 2
    opened.mouse.move(area["x"] + 0.4 * area["width"], middle)
    opened.mouse.down()
    opened.mouse.move(area["x"] + 0.6 * area["width"], middle, steps=5)
    opened.mouse.up()
    opened.wait_for_function(
        "n => document.querySelectorAll('#chart-loss .xtick text')[0].textContent !== n", arg=whole[0]
    )
    figure.get_by_role("button", name="Show the whole of").click()
    opened.wait_for_function(
        "n => document.querySelectorAll('#chart-loss .xtick text')[0].textContent === n", arg=whole[0]
    )
    assert figure.locator(".xtick text").all_text_contents() == whole


def test_a_chart_is_saved_as_a_drawing(opened: Any, tmp_path: Path) -> None:
    figure = shown(opened, "loss")
    with opened.expect_download() as download:
        figure.get_by_role("button", name="as SVG").click()
    assert download.value.suggested_filename == "chart-loss.svg"
    download.value.save_as(tmp_path / "chart.svg")
    drawing = ElementTree.parse(tmp_path / "chart.svg").getroot()
    found = drawing.findall(".//{http://www.w3.org/2000/svg}path[@class='js-line']")
    assert len(found) == len(lines(figure)) and all(path.get("d") for path in found)


def test_a_chart_is_drawn_when_it_comes_near(browser: Any, tmp_path: Path) -> None:
    many = [Chart(f"chart-{n}", f"Chart {n}", "loss", curves(50)) for n in range(8)]
    page_room.write(Report("charts", ["runs"], [Section("all", "All", many)]), tmp_path / "report.html")
    page = browser.new_page(viewport={"width": 1000, "height": 700})
    page.goto((tmp_path / "report.html").as_uri())
    page.locator("#chart-chart-0[data-drawn]").wait_for()
    assert page.locator(".chart[data-drawn]").count() < 8
    shown(page, "chart-7")
    page.close()


def test_a_setting_has_one_colour_and_dash_in_all_charts(browser: Any, tmp_path: Path) -> None:
    six = curves(30)
    few = [
        Chart("all", "All", "loss", six),
        Chart("last", "Last", "loss", [Curve("alone", six[0].x, six[0].y), *six[4:]]),
    ]
    page_room.write(Report("charts", ["runs"], [Section("all", "All", few)]), tmp_path / "report.html")
    page = browser.new_page(viewport={"width": 1000, "height": 900})
    page.goto((tmp_path / "report.html").as_uri())
    looks = {
        name: [line.get_attribute("style") for line in shown(page, name).locator(".js-line").all()]
        for name in ("all", "last")
    }
    assert looks["last"][1:] == looks["all"][4:] and len({*looks["all"], *looks["last"]}) == 3
    assert looks["last"][0] not in looks["last"][1:]
    page.close()


def test_a_chart_without_points_says_so(opened: Any) -> None:
    assert "This chart has no points" in opened.locator("#chart-nothing").text_content()


def test_a_long_curve_is_thinned_to_points_of_its_own_and_says_so(tmp_path: Path) -> None:
    long = Curve("long", {"steps": range(2000)}, [float("nan") if n == 30 else (n * 7919) % 1009 for n in range(2000)])
    chart = Chart("long", "Long", "loss", [long, curves(40)[0]])
    page_room.write(Report("thin", ["runs"], [Section("all", "All", [chart])]), tmp_path / "report.html")
    text = (tmp_path / "report.html").read_text()
    data = json.loads(text.split('<script type="application/json">')[1].split("</script>")[0])
    one, other = data["curves"]
    assert len(one["y"]) <= views.MOST_POINTS and len(other["y"]) == 40
    assert {max(long.y), min(long.y)} <= set(one["y"]) and one["x"]["steps"][0] == 0 and one["x"]["steps"][-1] == 1999
    assert all(y is None or y == long.y[x] for x, y in zip(one["x"]["steps"], one["y"], strict=True))
    assert (
        f"thinned from 2,000 to {len(one['y'])} points" in text and "metrics.jsonl of each run has all points" in text
    )
    assert "not finite leave gaps: long" in text


def test_thinning_keeps_the_lowest_and_highest_of_every_stretch() -> None:
    y = [(n * 7919) % 1009 + n / 5000 for n in range(5000)]
    places = views.kept(y, 100)
    assert len(places) <= 100 and places == sorted(set(places)) and places[0] == 0 and places[-1] == 4999
    for begin in range(0, 4800, 103):  # every stretch twice the width of a bin holds an extreme of its own
        stretch = y[begin : begin + 2 * 103]
        kept = [y[place] for place in places if begin <= place < begin + 2 * 103]
        assert max(kept) >= sorted(stretch)[len(stretch) // 2] >= min(kept)


def blocks() -> list[Chart]:
    return [block for section in report().sections for block in section.blocks if isinstance(block, Chart)]
