from __future__ import annotations

from tests.support.stages import _skipping_stage, puppet, skipping, stage, stage_sandbox

__all__ = ["_skipping_stage", "puppet", "skipping", "stage", "stage_sandbox"]
