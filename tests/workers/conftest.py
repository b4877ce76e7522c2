from __future__ import annotations

from tests.support.stages import puppet, stage, stage_sandbox

__all__ = ["puppet", "stage", "stage_sandbox"]
