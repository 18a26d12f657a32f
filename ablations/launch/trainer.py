"""Train, with fewer processes than it comes with, and without what it leaves behind when one of them is killed."""

from __future__ import annotations

import asyncio
from typing import Any

import ray
import ray.train.torch
from ray._private.state import state
from ray.core.generated.gcs_pb2 import PlacementGroupTableData  # type: ignore[attr-defined]
from ray.train.v2._internal.callbacks.datasets import DatasetsCallback
from ray.train.v2._internal.callbacks.placement_group_callback import PlacementGroupCleanerCallback
from ray.train.v2._internal.execution.controller import TrainController
from ray.train.v2._internal.execution.local_mode.utils import LocalController
from ray.util.placement_group import PlacementGroup, remove_placement_group

_Base: Any = ray.train.torch.TorchTrainer


class Trainer(_Base):  # type: ignore[misc]
    """TorchTrainer with its controller in the process that calls `fit`, which has imported torch already.

    Left out are two actors for each trial: one for data sets, of which there are none, and Train's own cleaner, which
    does not know a placement group until its workers have started, and where it has cleaned does not end.
    """

    def _create_default_callbacks(self) -> list[Any]:
        left_out = PlacementGroupCleanerCallback, DatasetsCallback
        return [callback for callback in super()._create_default_callbacks() if not isinstance(callback, left_out)]

    def _initialize_and_run_controller(self, **parts: Any) -> Any:
        controller = TrainController(**parts)
        asyncio.run(controller.run())
        return controller.get_result()

    def _get_local_controller(self) -> LocalController:
        # TorchTrainer's own joins the process group of a torchrun in whose environment Ray was started.
        return LocalController(self.run_config.name)


def remove_placement_groups() -> None:
    """Remove those of this job whose creator has died: they hold what the next workers wait for.

    Ray 2.60 removes them with their job only, hours later.
    """
    job, nobody = ray.get_runtime_context().get_job_id(), ray.ActorID.nil().binary()
    for content in state._connect_and_get_accessor().get_placement_group_table():
        group = PlacementGroupTableData.FromString(content)
        created_here = group.creator_job_id.hex() == job and group.creator_actor_id != nobody
        if created_here and group.creator_actor_dead and group.state != PlacementGroupTableData.REMOVED:
            remove_placement_group(PlacementGroup(ray.PlacementGroupID(group.placement_group_id)))
