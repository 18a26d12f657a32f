"""What a killed controller of Train leaves behind. Ray 2.60 removes it with its job only, hours later."""

from __future__ import annotations

from typing import Any

import ray
import ray.train.torch
from ray._private.state import state
from ray.core.generated.gcs_pb2 import PlacementGroupTableData  # type: ignore[attr-defined]
from ray.train.v2._internal.callbacks.placement_group_callback import PlacementGroupCleanerCallback
from ray.util.placement_group import PlacementGroup, remove_placement_group

_Base: Any = ray.train.torch.TorchTrainer


class Trainer(_Base):  # type: ignore[misc]
    """TorchTrainer without Train's own cleaner, a process for each trial.

    It does not know a placement group until its workers have started, and where it has cleaned it does not end.
    """

    def _create_default_callbacks(self) -> list[Any]:
        callbacks = super()._create_default_callbacks()
        return [callback for callback in callbacks if not isinstance(callback, PlacementGroupCleanerCallback)]


def remove_placement_groups() -> None:
    """Remove those of this job whose creator has died: they hold what the next workers wait for."""
    job, nobody = ray.get_runtime_context().get_job_id(), ray.ActorID.nil().binary()
    for content in state._connect_and_get_accessor().get_placement_group_table():
        group = PlacementGroupTableData.FromString(content)
        created_here = group.creator_job_id.hex() == job and group.creator_actor_id != nobody
        if created_here and group.creator_actor_dead and group.state != PlacementGroupTableData.REMOVED:
            remove_placement_group(PlacementGroup(ray.PlacementGroupID(group.placement_group_id)))
