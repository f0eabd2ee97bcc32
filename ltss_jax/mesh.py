"""Devices: joining the processes of a job, the data mesh, placing batches on it."""

from collections.abc import Sequence

import jax
import numpy as np
from absl import logging
from jax.sharding import AxisType, Mesh, NamedSharding, PartitionSpec

_NO_CLUSTER = "coordinator_address should be defined"  # what jax says outside every known cluster


def initialize_distributed(
  coordinator_address: str | None = None,
  num_processes: int | None = None,
  process_id: int | None = None,
) -> None:
  """Joins this process to its job; does nothing where there is only one process.

  With no argument the platform's environment decides (Cloud TPU, Slurm, Open MPI, Kubernetes: what
  `jax.distributed.initialize` detects). Call it before anything touches a device.

  Args:
    coordinator_address: host:port of process 0.
    num_processes: in the whole job.
    process_id: of this process, from 0.

  Raises:
    ValueError: some, but not all arguments are given.
  """
  given = (coordinator_address, num_processes, process_id)
  if any(g is not None for g in given) and any(g is None for g in given):
    raise ValueError(
      "--coordinator_address, --num_processes and --process_id go together; got "
      f"{coordinator_address}, {num_processes}, {process_id}"
    )
  try:
    jax.distributed.initialize(coordinator_address, num_processes, process_id)
  except ValueError as error:
    if coordinator_address is not None or _NO_CLUSTER not in str(error):
      raise
    return
  logging.info("process %d of %d", jax.process_index(), jax.process_count())


def data_mesh(devices: Sequence[jax.Device] | None = None) -> Mesh:
  """One axis, "data", over the given devices (default: all devices of the job)."""
  devices = jax.devices() if devices is None else devices
  return jax.make_mesh((len(devices),), ("data",), axis_types=(AxisType.Auto,), devices=devices)


def replicated(mesh: Mesh) -> NamedSharding:
  """Every device holds the whole array."""
  return NamedSharding(mesh, PartitionSpec())


def batch_sharding(mesh: Mesh) -> NamedSharding:
  """The first axis is split over the devices."""
  return NamedSharding(mesh, PartitionSpec("data"))


def put_batch(batch: dict[str, np.ndarray], mesh: Mesh) -> dict[str, jax.Array]:
  """Makes global arrays [B, ...] of each process's own rows [B / processes, ...]."""
  return jax.make_array_from_process_local_data(batch_sharding(mesh), batch)


def check_batch_size(field: str, batch_size: int, parts: int, what: str) -> None:
  """Raises a ValueError where a batch does not split evenly.

  Args:
    field: config field that holds it, for the message.
    batch_size: images of the batch.
    parts: into how many equal parts it must split.
    what: what the parts are, for the message.

  Raises:
    ValueError: names the field, both numbers and the nearest sizes that do.
  """
  if batch_size > 0 and batch_size % parts == 0:
    return
  lower = batch_size // parts * parts
  nearest = f"{lower} or {lower + parts}" if lower > 0 else f"{parts}"
  raise ValueError(
    f"{field} is {batch_size}, which does not divide into {parts} equal parts ({what}); "
    f"the nearest that does: {nearest}"
  )
