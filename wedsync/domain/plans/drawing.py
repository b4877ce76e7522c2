"""Draw a compiled plan as text, Mermaid or SVG, grouped by service window.

Only needs that add something are drawn: one that follows from another is left out.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import groupby
from xml.sax.saxutils import escape

from wedsync.domain.plans.plan import PlannedStep
from wedsync.domain.plans.topology import ancestors

WINDOWS = ("preparation", "ceremony", "reception", "cleanup")
_BOX_WIDTH, _BOX_HEIGHT, _GAP_X, _GAP_Y, _MARGIN, _TITLE = 220, 46, 60, 18, 24, 28


def drawn_needs(steps: Sequence[PlannedStep]) -> dict[str, tuple[str, ...]]:
    """Return each step's needs without those that follow from its other needs; `steps` are in topological order."""
    names = [step.id for step in steps]
    needs = {step.id: step.needs for step in steps}
    above = ancestors(names, needs)
    bit = {name: 1 << index for index, name in enumerate(names)}
    return {
        name: tuple(need for need in needs[name] if not any(above[other] & bit[need] for other in needs[name]))
        for name in names
    }


def draw_text(steps: Sequence[PlannedStep]) -> str:
    """Draw a table per window: step, action, vendors, when it is due, what it needs; `!` marks critical steps."""
    needs = drawn_needs(steps)
    rows = {step.id: (_name(step), step.action, _vendors(step), step.at or "now") for step in steps}
    widths = [max(len(row[column]) for row in rows.values()) for column in range(4)] if rows else []
    lines: list[str] = []
    for window, members in _by_window(steps):
        lines += ["", window] if lines else [window]
        for step in members:
            cells = "  ".join(cell.ljust(width) for cell, width in zip(rows[step.id], widths, strict=True))
            after = f"  after {', '.join(needs[step.id])}" if needs[step.id] else ""
            lines.append(f"  {cells}{after}".rstrip())
    return "\n".join(lines) + "\n" if lines else ""


def draw_mermaid(steps: Sequence[PlannedStep]) -> str:
    """Draw a Mermaid flowchart with a subgraph per window."""
    needs = drawn_needs(steps)
    node = {step.id: f"s{index}" for index, step in enumerate(steps)}
    lines = ["flowchart LR"]
    for window, members in _by_window(steps):
        lines.append(f"  subgraph {window}")
        lines += [f'    {node[step.id]}["{_mermaid(_name(step))}<br/>{_mermaid(_subtitle(step))}"]' for step in members]
        lines.append("  end")
    lines += [f"  {node[need]} --> {node[step.id]}" for step in steps for need in needs[step.id]]
    critical = ",".join(node[step.id] for step in steps if step.critical)
    if critical:
        lines += ["  classDef critical stroke-width:3px", f"  class {critical} critical"]
    return "\n".join(lines) + "\n"


def draw_svg(steps: Sequence[PlannedStep]) -> str:
    """Draw an SVG document: a band per window, steps from left to right after what they need."""
    needs = drawn_needs(steps)
    boxes, bands, width, height = _layout(steps, needs)
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {height}" width="{width}" height="{height}" '
        'font-family="system-ui, sans-serif" font-size="12" role="img" aria-label="Steps of the plan">',
        '<defs><marker id="arrow" viewBox="0 0 8 8" refX="8" refY="4" markerWidth="7" markerHeight="7" orient="auto">'
        '<path d="M0 0 8 4 0 8z" fill="#567"/></marker></defs>',
        f'<rect width="{width}" height="{height}" fill="#fff"/>',
    ]
    for window, top, bottom in bands:
        parts.append(
            f'<rect x="8" y="{top}" width="{width - 16}" height="{bottom - top}" rx="8" fill="#f3f5f8"/>'
            f'<text x="20" y="{top + 18}" font-weight="600" fill="#345">{escape(window)}</text>'
        )
    parts += [_arrow(boxes[need], boxes[step.id]) for step in steps for need in needs[step.id]]
    parts += [_box(step, *boxes[step.id]) for step in steps]
    return "\n".join([*parts, "</svg>"]) + "\n"


def _layout(
    steps: Sequence[PlannedStep], needs: dict[str, tuple[str, ...]]
) -> tuple[dict[str, tuple[int, int]], list[tuple[str, int, int]], int, int]:
    """Return the boxes' corners, the bands (window, top, bottom), and the picture's size, in pixels."""
    column: dict[str, int] = {}
    for step in steps:
        column[step.id] = max((column[need] + 1 for need in needs[step.id]), default=0)
    boxes: dict[str, tuple[int, int]] = {}
    bands: list[tuple[str, int, int]] = []
    top = 8
    for window, members in _by_window(steps):
        used: dict[int, int] = {}
        for step in members:
            row = used.get(column[step.id], 0)
            used[column[step.id]] = row + 1
            x = _MARGIN + column[step.id] * (_BOX_WIDTH + _GAP_X)
            boxes[step.id] = (x, top + _TITLE + row * (_BOX_HEIGHT + _GAP_Y))
        bottom = top + _TITLE + max(used.values()) * (_BOX_HEIGHT + _GAP_Y)
        bands.append((window, top, bottom))
        top = bottom + 12
    columns = max(column.values(), default=0) + 1
    return boxes, bands, 2 * _MARGIN + columns * _BOX_WIDTH + (columns - 1) * _GAP_X, top


def _box(step: PlannedStep, x: int, y: int) -> str:
    stroke = 'stroke="#a33" stroke-width="2"' if step.critical else 'stroke="#89a"'
    title = f"{step.id}: {step.action}, {_vendors(step)}, {step.at or 'now'}"
    return (
        f"<g><title>{escape(title)}</title>"
        f'<rect x="{x}" y="{y}" width="{_BOX_WIDTH}" height="{_BOX_HEIGHT}" rx="6" fill="#fff" {stroke}/>'
        f'<text x="{x + 10}" y="{y + 19}" font-weight="600">{escape(_clip(step.id, 30))}</text>'
        f'<text x="{x + 10}" y="{y + 36}" fill="#567">{escape(_clip(_subtitle(step), 34))}</text></g>'
    )


def _arrow(before: tuple[int, int], after: tuple[int, int]) -> str:
    x1, y1 = before[0] + _BOX_WIDTH, before[1] + _BOX_HEIGHT // 2
    x2, y2 = after[0], after[1] + _BOX_HEIGHT // 2
    bend = _GAP_X // 2
    return (
        f'<path d="M{x1} {y1}C{x1 + bend} {y1} {x2 - bend} {y2} {x2} {y2}" fill="none" stroke="#567" '
        'marker-end="url(#arrow)"/>'
    )


def _by_window(steps: Sequence[PlannedStep]) -> list[tuple[str, list[PlannedStep]]]:
    ordered = sorted(steps, key=lambda step: WINDOWS.index(step.window))
    return [(window, list(members)) for window, members in groupby(ordered, key=lambda step: step.window)]


def _name(step: PlannedStep) -> str:
    return f"{step.id}{' !' if step.critical else ''}"


def _vendors(step: PlannedStep) -> str:
    account = f" ({step.account})" if step.account != "default" else ""
    return " > ".join(step.vendors) + account


def _subtitle(step: PlannedStep) -> str:
    return f"{_vendors(step)}{f', {step.at}' if step.at else ''}"


def _mermaid(text: str) -> str:
    """Escape text for the quotes of a Mermaid label."""
    return escape(text, {'"': "&quot;"}).replace("#", "#35;")


def _clip(text: str, most: int) -> str:
    return text if len(text) <= most else f"{text[: most - 1]}…"
