from collections.abc import Callable
from typing import Any
from xml.etree import ElementTree

from wedsync.domain.plans import drawing
from wedsync.domain.plans.plan import PlannedStep

Compiled = Callable[[dict[str, Any]], dict[str, PlannedStep]]
SVG = "{http://www.w3.org/2000/svg}"


def test_needs_that_another_need_brings_along_are_not_drawn(data: dict[str, Any], compiled: Compiled) -> None:
    steps = compiled(data)
    assert steps["email"].needs == ("venue", "deposit")
    assert drawing.drawn_needs(list(steps.values()))["email"] == ("deposit",)


def test_the_text_groups_by_window_and_marks_critical_steps(data: dict[str, Any], compiled: Compiled) -> None:
    data["steps"][0]["window"] = "ceremony"
    data["steps"][2]["at"] = "ceremony - 7d"
    lines = drawing.draw_text(list(compiled(data).values())).splitlines()
    assert lines[0] == "preparation"
    assert lines[lines.index("ceremony") + 1].split()[:3] == ["venue", "!", "booking.request"]
    deposit = next(line for line in lines if "deposit " in line and "payments" in line)
    assert "stripe > paypal" in deposit
    assert deposit.endswith("after venue")
    assert any("ceremony - 7d" in line for line in lines)


def test_mermaid_has_a_subgraph_per_window_and_an_arrow_per_drawn_need(
    data: dict[str, Any], compiled: Compiled
) -> None:
    data["steps"][0]["window"] = "ceremony"
    data["steps"][3]["at"] = "ceremony - 7d"
    drawn = drawing.draw_mermaid(list(compiled(data).values()))
    assert drawn.startswith("flowchart LR\n  subgraph preparation\n")
    assert drawn.count("subgraph") == 2
    assert drawn.count(" --> ") == 2
    assert "class s0 critical" in drawn
    assert "generic (villa)" in drawn


def test_svg_is_well_formed_with_a_box_per_step_and_an_arrow_per_drawn_need(
    data: dict[str, Any], compiled: Compiled
) -> None:
    steps = list(compiled(data).values())
    root = ElementTree.fromstring(drawing.draw_svg(steps))  # noqa: S314
    titles = [title.text or "" for title in root.iter(f"{SVG}title")]
    assert [title.partition(":")[0] for title in titles] == [step.id for step in steps]
    arrows = [path for path in root.iter(f"{SVG}path") if path.get("marker-end")]
    assert len(arrows) == sum(map(len, drawing.drawn_needs(steps).values()))
    corners = {(rect.get("x"), rect.get("y")) for group in root.iter(f"{SVG}g") for rect in group.iter(f"{SVG}rect")}
    assert len(corners) == len(steps)


def test_text_of_a_plan_is_escaped(data: dict[str, Any], compiled: Compiled) -> None:
    step = compiled(data)["venue"].model_copy(update={"at": "<b>\"&'#", "account": "x" * 60})
    root = ElementTree.fromstring(drawing.draw_svg([step]))  # noqa: S314
    assert any("<b>" in (title.text or "") for title in root.iter(f"{SVG}title"))
    drawn = drawing.draw_mermaid([step])
    assert "&lt;b&gt;&quot;&amp;'#35;" in drawn


def test_no_steps_give_empty_pictures() -> None:
    assert drawing.draw_text([]) == ""
    assert drawing.draw_mermaid([]) == "flowchart LR\n"
    assert ElementTree.fromstring(drawing.draw_svg([])).tag == f"{SVG}svg"  # noqa: S314
