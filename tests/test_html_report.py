"""A summary as one HTML page: what is in it, and what a browser makes of it."""

import json
import re
from dataclasses import replace
from itertools import pairwise

import pytest
import torch
from browser import Browser, chromium
from builders import small_mapping
from markupsafe import escape

from has8.cli.outputs import check_report, write_report
from has8.errors import BadInput
from hwsim import estimate, simulate
from hwsim.alternatives import Alternative
from hwsim.price.learning import LearningPrice, Share
from hwsim.report import html_comparison, html_report, summarize, to_dict
from hwsim.report.html.charts import slices_of
from hwsim.report.terminal import comparison, headline
from mapping.partition.segments import Rejection
from mapping.targets.figures import Figure


@pytest.fixture(scope="module")
def summary():
    mapped, images = small_mapping()
    cost = estimate(mapped, simulate(mapped, images, apart=2))
    return summarize(mapped, cost, accuracy_float=0.75, accuracy_mapped=0.625)


@pytest.fixture(scope="module")
def page(summary):
    return html_report(summary)


def data(page, name):
    """What a script element holds."""
    return json.loads(re.search(rf'id="{name}">(.*?)</script>', page, re.DOTALL)[1])


def test_a_page_holds_all_numbers_and_asks_no_network(summary, page):
    assert data(page, "numbers") == [json.loads(json.dumps(to_dict(summary)))]
    assert len(page) < 3e6 and page.startswith("<!doctype html>")
    assert "default-src 'none'" in page and not re.search(r'(src|href)="(?!#|data:)', page)
    assert page.count("class='core'") == summary.cost.cores_used
    ids = set(re.findall(r' id="([^"]+)"', page))
    assert set(re.findall(r' href="#([^"]+)"', page)) <= ids
    boxes = re.findall("class='box' data-side='(host|chip)'", page)
    segments, graph = summary.partition, summary.cost.work.mapped.graph
    assert len(boxes) == 1 + len(segments) + len(list(graph))
    for assumption in summary.cost.assumptions:
        assert f"<td>{escape(assumption.source)}</td>" in page


@pytest.mark.parametrize("run_mode", ["gated", "reset"])
def test_the_timeline_is_the_latency(summary, run_mode):
    work = summary.cost.work
    run = simulate(work.mapped, torch.rand(4, 1, 8, 8), apart=2)
    cost = estimate(work.mapped, run, run_mode=run_mode)
    slices = list(slices_of(cost))
    tracks = {"host": [], "board": []}
    for track, *_, start, us in slices:
        tracks["host" if track == "host" else "board"].append((start, start + us))
    ends = [end for spans in tracks.values() for _, end in spans]
    assert max(ends) == pytest.approx(cost.latency_us.value)
    for spans in tracks.values():  # neither does two things at a time
        assert all(end <= start + 1e-9 for (_, end), (start, _) in pairwise(spans))
    host, board = (sum(end - start for start, end in spans) for spans in tracks.values())
    both = host + board - cost.latency_us.value
    assert both == pytest.approx(-cost.price.latency.overlap_us.value) and both > 0


def test_names_of_strangers_are_text(summary):
    name = '</script><img src=x onerror="alert(1)">'
    page = html_report(replace(summary, model=name, rejections=(Rejection(name, name),)))
    assert "<img" not in page and data(page, "numbers")[0]["model"] == name


def test_the_page_says_what_the_terminal_says(summary, page):
    share = Share(Figure.exact(1000.0, "µJ"), Figure.exact(2.0, "µs"))
    price = LearningPrice(2, 3.0, 1.0, share, {"engine": share}, ())
    assert "Learning one sample" not in page
    assert "<td>2.00 mJ</td>" in html_report(replace(summary, learning=price))
    for what, text in (*headline(summary), *comparison(summary.cost)):
        assert what == "verdict" or f"<dd>{escape(text.plain)}</dd>" in page


def test_two_reports_stand_side_by_side(summary):
    found = [Alternative(name, 0.5, summary.cost) for name in ("one", "other")]
    page = html_comparison("two", found)
    assert data(page, "charts")["front"]["data"][0]["text"] == ["one", "other"]
    assert page.count("<article") == 2 and len(data(page, "numbers")) == 2
    ids = re.findall(r'[ <]id="([^"]+)"', page)
    assert len(ids) == len(set(ids))


@pytest.fixture(scope="module")
def browser(tmp_path_factory):
    if chromium() is None:
        pytest.skip("Chromium is not installed")
    found = Browser(tmp_path_factory.mktemp("chromium"))
    yield found
    found.close()


MARKS = """Object.fromEntries([...document.querySelectorAll('[data-chart]')].map(place =>
    [place.id, place.querySelectorAll('.point path, path.point, .heatmaplayer image').length]))"""


def test_a_browser_draws_every_figure_and_has_no_complaint(browser, page, tmp_path):
    """At a phone's width: nothing is wider than the window, and no request leaves the page."""
    file = tmp_path / "report.html"
    file.write_text(page, encoding="utf-8")
    browser.open(file, width=360)
    marks = browser.run(MARKS)
    assert set(marks) == set(data(page, "charts")) and min(marks.values()) > 0
    assert browser.run("document.documentElement.scrollWidth") == 360
    assert browser.run("document.querySelectorAll('g.core').length") == page.count("class='core'")
    controls = "button, select, input, summary, a[href], [tabindex='0']"
    shown = f'[...document.querySelectorAll("{controls}")].filter(one => one.checkVisibility())'
    browser.run(f"window.missed = new Set({shown}); window.missed.size")
    for _ in range(browser.run("missed.size")):
        browser.key("Tab", 9)
        browser.run("missed.delete(document.activeElement)")
    assert browser.run("missed.size") == 0
    assert browser.complaints == []
    assert {url.split(":")[0] for url in browser.requests} <= {"file", "data"}
    assert len([url for url in browser.requests if url.startswith("file")]) == 1


def test_switches_change_what_they_say(browser, page, tmp_path):
    file = tmp_path / "report.html"
    file.write_text(page, encoding="utf-8")
    browser.open(file)
    colour = "document.querySelector('g.core rect').style.fill"
    before = browser.run(colour)
    change = "one.dispatchEvent(new Event('change'))"
    pick = "one = document.querySelector('[data-colour]'); one.value = 'used:neurons'"
    assert browser.run(f"var one; {pick}; {change}; {colour}") != before
    browser.run("document.querySelector('.plan').focus()")
    browser.key("ArrowRight", 39)
    assert "Core 0 at router" in browser.run("document.querySelector('p.core').textContent")
    browser.run("document.querySelector('[data-show=layers]').click()")
    views = "[...document.querySelectorAll('[data-view]')].map(one => one.hidden)"
    assert browser.run(views) == [True, False]
    search = "one = document.querySelector('[data-words]'); one.value = 'barrier'"
    browser.run(f"{search}; one.dispatchEvent(new Event('input'))")
    rows = "[...document.querySelectorAll('[data-search] tbody tr')].filter(row => !row.hidden)"
    found = browser.run(f"{rows}.map(row => row.textContent.toLowerCase().includes('barrier'))")
    assert found and all(found)
    assert browser.pdf().startswith(b"%PDF") and browser.complaints == []


def test_a_report_is_what_its_name_says(tmp_path):
    check_report(tmp_path / "a.html")
    write_report(tmp_path / "a.csv", lambda: "the page", {"n": [1, None]})
    write_report(tmp_path / "a.html", lambda: "the page", {})
    assert (tmp_path / "a.csv").read_text().split() == ["path,value", "n.0,1", "n.1,"]
    assert (tmp_path / "a.html").read_text() == "the page"
    with pytest.raises(BadInput, match=r"neither \.html nor \.csv"):
        check_report(tmp_path / "a.txt")


@pytest.mark.parametrize("name", ["thesis.html", "measured.csv"])
def test_a_file_of_somebody_else_is_not_replaced(tmp_path, name, page):
    file = tmp_path / name
    file.write_text("mine\n")
    with pytest.raises(BadInput, match="is no report of has8's and would be lost"):
        check_report(file)
    write_report(file, lambda: page, {"n": 1})
    check_report(file)  # a report may be written again
