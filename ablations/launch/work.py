"""What runs in each worker of a trial."""

from __future__ import annotations

import contextlib
from typing import Any, cast

import ray
import ray.train.collective
import ray.train.torch
import torch

from ablations import placement
from ablations import trial as trials
from ablations.beside import beside
from ablations.launch import cluster
from ablations.launch.gauges import Gauges
from ablations.launch.notices import Notices
from ablations.store import Store
from simsiam import data, distributed
from simsiam.config import Config, Runtime, fingerprint
from simsiam.data import Source
from simsiam.loader import Decoded

Job = dict[str, Any]  # what a trial's processes are told


def work(job: Job) -> tuple[trials.Result, list[trials.Result]]:
    """Train and evaluate a trial, together with its other workers -> its result and its curve."""
    config, device, mailbox = Config(**job["config"]), ray.train.torch.get_device(), job["mailbox"]
    runtime = Runtime(**(job["runtime"] | {"device": str(device)}))
    node = ray.get_runtime_context().get_node_id()
    nodes = distributed.everyone(node)
    if device.type == "cuda" and len(nodes) > 1:
        gpu = str(torch.cuda.get_device_properties(device).uuid)
        placement.check_devices(distributed.everyone((node, gpu)))
    if distributed.rank() == 0 and len(nodes) > 1:
        mailbox.tell(fingerprint(config), "its workers are there")
    store = Store.at(job["results"])
    cluster.check_that_this_node_sees(store, job["scratch"])

    first = distributed.rank() == 0
    gauges = Gauges(job["name"], fingerprint(config), device) if first else None

    def tell(text: str) -> None:
        if first:
            mailbox.tell(fingerprint(config), text)

    def on_epoch(line: trials.Result) -> None:
        if gauges:
            mailbox.tell(fingerprint(config), line)
            gauges.show(line)

    checkpoint = store.checkpoint(fingerprint(config), config.method)
    with gauges or contextlib.nullcontext(), beside(checkpoint, runtime, tell) as place:
        found = trials.run(
            config,
            runtime,
            pictures=_pictures(job, runtime),
            place=place,
            on_epoch=on_epoch,
            hurry=Notices(nodes),
            weights=store.encoder(config.encoder),
        )
    mailbox.wait()
    return found


def _pictures(job: Job, runtime: Runtime) -> Decoded | Source:
    """The pictures of the trial, decoded; or where they are, once they are on the nodes of all its workers."""
    if decoded := cast("Decoded | None", ray.get(job["pictures"])):
        return decoded
    try:
        source = data.of(runtime)
        data.fetch(source)
    except data.DataError as error:  # of this node: another may have them, so no other trial is given up for it
        raise OSError(f"{ray.util.get_node_ip_address()} does not get the pictures: {error}") from None
    # A node may be new, and copy first. The others wait here: torch's collectives give up after half an hour.
    ray.train.collective.barrier()
    return source
