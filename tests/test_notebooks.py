"""What notebooks show of a mapping, a run, a price and a comparison: plain HTML and SVG."""

from xml.etree import ElementTree

import pytest
import torch
from builders import IMAGE, everything

from has8.markup import block, ranges, table
from has8.units import energy
from hwsim import alternative, compare, estimate, explore, simulate
from hwsim.report import summarize
from mapping import map_model


def parsed(shown):
    """The tree of some HTML, which has no script, no style sheet and nothing from elsewhere."""
    tree = ElementTree.fromstring(shown)
    kinds = {element.tag for element in tree.iter()}
    assert kinds <= {"div", "b", "table", "tr", "td", "svg", "rect", "title", "text"}
    names = {name for element in tree.iter() for name in element.attrib}
    assert not {name for name in names if name.startswith("on") or name in ("href", "src")}
    return tree


@pytest.fixture(scope="module")
def mapped():
    return map_model(everything(), target="loihi", calibration=torch.rand(8, *IMAGE))


def test_a_mapping_shows_its_cores_and_layers(mapped):
    tree = parsed(mapped._repr_html_())
    cores = [e.find("title").text for e in tree.iter("rect")]
    assert len(cores) == 128 and cores.count("free") == 128 - mapped.placement.cores_used
    layers = [row[1].text for row in tree.iter("tr")][1:]
    assert layers == [p.name for chip in mapped.chip_segments for p in chip.populations]
    alone = map_model(
        everything(), target="loihi", calibration=torch.rand(8, *IMAGE), partition="none"
    )
    assert "all layers are on the host" in "".join(parsed(alone._repr_html_()).itertext())


def test_a_run_its_price_and_a_comparison_show_their_numbers(mapped):
    x = torch.rand(3, *IMAGE)
    run = simulate(mapped, x)
    cost = estimate(mapped, run)
    rows = {row[0].text: row[1].text for row in parsed(run._repr_html_()).iter("tr")}
    assert rows["one"] == f"{int(run.activity.events['one'].sum()):,}"
    total = energy(cost.energy_uj.total)
    for shown in (cost, alternative("here", mapped, x), summarize(mapped, cost)):
        assert total in [e.text for e in parsed(shown._repr_html_()).iter("text")]
    found = compare(mapped, x, "fast", "reference")
    front = explore(mapped, x)
    rows = [row[1].text for row in parsed(front._repr_html_()).iter("tr")][1:]
    assert len(rows) == len(front.front) and sum("(best)" in row for row in rows) == 1
    assert "fast and reference: equal" in "".join(parsed(found._repr_html_()).itertext())


def test_names_are_text_and_bars_lie_where_their_numbers_say():
    nasty = '<script>alert("x")</script>\x1b[2J'
    tree = parsed(block(nasty, table((nasty, ""), [(nasty, "1")])))
    assert tree.find("b").text == '<script>alert("x")</script>\\x1b[2J'
    drawn = parsed(ranges([("a", 1.0, 10.0, 100.0), ("b", 10.0, 10.0, 10.0), ("c", 0, 0, 0)], str))
    bars = [e for e in drawn.iter("rect") if e.get("height") == "10"]
    assert len(bars) == 2
    start, wide = (float(bars[0].get(name)) for name in ("x", "width"))
    assert float(bars[1].get("x")) == pytest.approx(start + wide / 2)
