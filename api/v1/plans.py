"""`/api/v1/plans`: lists what is wrong with a plan."""

from __future__ import annotations

from fastapi import APIRouter, Request
from starlette.exceptions import HTTPException

from api.examples import PLAN_BODY
from wedsync.domain.plans.plan import PlanError
from wedsync.http.deps import Context
from wedsync.usecases.plans.validate import validate_plan as find_faults
from wedsync.usecases.weddings.read_wedding import View

router = APIRouter(prefix="/plans", tags=["plans"])
_YAML = ("application/yaml", "application/x-yaml", "text/yaml", "text/x-yaml")


class PlanValidation(View):
    """Tells whether the plan can be run, and lists everything that speaks against it."""

    valid: bool
    errors: tuple[PlanError, ...]


def is_yaml(request: Request) -> bool:
    """Tell whether the body is YAML (else it is JSON); raises 415 for anything else."""
    media_type = request.headers.get("content-type", "application/json").partition(";")[0].strip().lower()
    if media_type in _YAML:
        return True
    if media_type == "application/json" or media_type.endswith("+json"):
        return False
    raise HTTPException(415)


@router.post("/validate", response_model=PlanValidation, openapi_extra=PLAN_BODY, summary="Check a plan")
async def validate_plan(request: Request, context: Context) -> PlanValidation:
    """List everything that is wrong with a plan, in JSON or YAML; nothing is stored."""
    plan, errors = find_faults(await request.body(), is_yaml=is_yaml(request), manifests=context.manifests)
    return PlanValidation(valid=plan is not None, errors=tuple(errors))
