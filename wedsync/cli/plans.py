"""`wedsync plan validate | plan graph | schema`: inspects plans and starts nothing."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from wedsync.cli import output as out
from wedsync.cli.output import BAD_INPUT, CliError, JsonFlag

if TYPE_CHECKING:
    from wedsync.domain.plans.plan import Plan

FileArgument = Annotated[str, typer.Argument(metavar="FILE", help="A plan, YAML or JSON; `-` reads stdin.")]

app = typer.Typer(
    help="Check a plan and draw it, without starting anything.", no_args_is_help=True, rich_markup_mode=None
)


class Format(StrEnum):
    """Format in which a plan is drawn."""

    TEXT = "text"
    MERMAID = "mermaid"
    SVG = "svg"


def register(root: typer.Typer) -> None:
    """Add this module's commands."""
    root.add_typer(app, name="plan")
    root.command()(schema)


def read_text(file: str) -> str:
    """Read the text of a plan file, or of stdin for `-`; raises CliError (2) when it can't be read."""
    try:
        return sys.stdin.read() if file == "-" else Path(file).read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        reason = error.strerror if isinstance(error, OSError) else "it is not UTF-8"
        detail = f"can't read {file}: {reason}"
        place = {"file": file, "code": "unreadable", "detail": str(reason)}
        raise CliError("unreadable", detail, BAD_INPUT, [place]) from None


def check(file: str) -> tuple[Plan | None, list[dict[str, Any]]]:
    """Return the plan in `file` and everything wrong with it, each with file, line and field."""
    from wedsync.kit.plan_file import check_plan_file
    from wedsync.vendors.registry import load_registry

    text = read_text(file)
    plan, errors = check_plan_file(text, "<stdin>" if file == "-" else file, load_registry().manifests)
    return plan, [error.model_dump(mode="json") for error in errors]


def load(file: str) -> Plan:
    """Return the good plan in `file`; raises CliError (2) that lists each fault."""
    plan, errors = check(file)
    if plan is None or errors:
        raise invalid([file], errors)
    return plan


def invalid(files: Sequence[str], errors: Sequence[dict[str, Any]]) -> CliError:
    """Build the error for a wrong plan."""
    many = f"{len(errors)} errors" if len(errors) != 1 else "1 error"
    return CliError("invalid_plan", f"{', '.join(files)}: {many}", BAD_INPUT, errors)


@app.command()
def validate(
    files: Annotated[list[str], typer.Argument(metavar="FILE...", help="Plans, YAML or JSON; `-` reads stdin.")],
    as_json: JsonFlag = False,
) -> int:
    """Check plans: shape, references, times, money, vendors. Exits 2 when one is wrong, naming file, line and field."""
    errors: list[dict[str, Any]] = []
    good: list[dict[str, Any]] = []
    bad: list[str] = []
    for file in files:
        plan, found = check(file)
        errors += found
        if plan is None or found:
            bad.append(file)
        else:
            good.append({"file": file, "plan_id": plan.wedding.id, "steps": len(plan.steps)})
    if bad:
        raise invalid(bad, errors)
    lines = [f"{item['file']}: good ({item['steps']} steps)" for item in good]
    out.current().result({"valid": True, "errors": [], "plans": good}, *lines)
    return out.ACCEPTED


@app.command()
def graph(
    file: FileArgument,
    form: Annotated[Format, typer.Option("--format", help="text, mermaid or svg.")] = Format.TEXT,
    target: Annotated[Path | None, typer.Option("-o", "--output", help="Write it there instead of on stdout.")] = None,
    as_json: JsonFlag = False,
) -> int:
    """Draw a plan's steps and what each of them needs."""
    from wedsync.domain.plans import drawing
    from wedsync.domain.plans.compile import compile_plan
    from wedsync.vendors.registry import load_registry

    plan = load(file)
    compiled = compile_plan(plan, load_registry().manifests)
    draw = {Format.TEXT: drawing.draw_text, Format.MERMAID: drawing.draw_mermaid, Format.SVG: drawing.draw_svg}[form]
    picture = draw(compiled)
    output = out.current()
    if target is not None:
        try:
            target.write_text(picture, encoding="utf-8")
        except OSError as error:
            raise CliError("unwritable", f"can't write {target}: {error.strerror}", BAD_INPUT) from None
        output.result({"format": form.value, "output": str(target)}, f"written to {target}")
    else:
        output.result({"format": form.value, "graph": picture}, picture.rstrip("\n"))
    return out.ACCEPTED


def schema(as_json: JsonFlag = False) -> int:
    """Print the JSON Schema of plans, version 1."""
    import json

    from wedsync.domain.plans.load import plan_json_schema

    found = plan_json_schema()
    out.current().result(found, json.dumps(found, indent=2, ensure_ascii=False))
    return out.ACCEPTED
