"""Devices: joining the processes of a job, its mesh, placing batches and state on it."""

from collections.abc import Sequence
from typing import Any

import jax
import numpy as np
from absl import logging
from jax.experimental import mesh_utils, multihost_utils
from jax.sharding import AxisType, Mesh, NamedSharding, PartitionSpec

# Axes of every mesh. The batch is split over both, the train state over the second one.
BATCH_AXES = ("data", "fsdp")
_STATE_AXIS = "fsdp"

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
    num_processes: number of processes of the whole job.
    process_id: number of this process, from 0.

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


def data_mesh(devices: Sequence[jax.Device] | None = None, fsdp: int = 1) -> Mesh:
  """The axes "data" and "fsdp" over devices.

  Args:
    devices: all that the mesh has; None: all devices of the job.
    fsdp: `config.mesh.fsdp`, size of the second axis. Its devices are neighbours: the same host's
      on GPUs, connected ones on TPUs.

  Raises:
    ValueError: fsdp does not divide the number of devices.
  """
  devices = jax.devices() if devices is None else devices
  number = len(devices)
  if fsdp < 1 or number % fsdp:
    divisors = [str(size) for size in range(1, number + 1) if number % size == 0]
    raise ValueError(
      f"config.mesh.fsdp is {fsdp}, which does not divide the number of devices, {number}; values "
      f"that do: {', '.join(divisors)}"
    )
  # An axis of TPUs may be part of a physical one: 8 of 16 in a row.
  placed = mesh_utils.create_device_mesh(
    (number // fsdp, fsdp), devices, allow_split_physical_axes=True
  )
  return Mesh(placed, BATCH_AXES, axis_types=(AxisType.Auto,) * 2)


def replicated(mesh: Mesh) -> NamedSharding:
  """Every device holds the whole array."""
  return NamedSharding(mesh, PartitionSpec())


def batch_sharding(mesh: Mesh) -> NamedSharding:
  """The first axis is split over all devices."""
  return NamedSharding(mesh, PartitionSpec(BATCH_AXES))


def state_sharding(shape: Sequence[int], mesh: Mesh) -> NamedSharding:
  """How an array of the train state is divided over the axis "fsdp".

  Its largest axis that divides evenly is split, of equally large ones the first. Where none does,
  as with scalars, every device holds the whole array.

  Args:
    shape: shape of the array.
    mesh: result of `data_mesh`.
  """
  parts = mesh.shape[_STATE_AXIS]
  sizes = [size if size % parts == 0 else 0 for size in shape]
  if parts == 1 or not any(sizes):
    return replicated(mesh)
  axis = sizes.index(max(sizes))
  return NamedSharding(mesh, PartitionSpec(*[None] * axis, _STATE_AXIS))


def put_batch(batch: dict[str, np.ndarray], mesh: Mesh) -> dict[str, jax.Array]:
  """Makes global arrays [B, ...] of each process's own rows [B / processes, ...]."""
  # Asked for, but with several processes JAX does not count it as an explicit transfer.
  with jax.transfer_guard_host_to_device("allow"):
    return jax.make_array_from_process_local_data(batch_sharding(mesh), batch)


def check_batch_size(field: str, batch_size: int, parts: int, what: str) -> None:
  """Raises a ValueError where a batch does not split evenly.

  Args:
    field: config field that holds it, for the message.
    batch_size: images of the batch.
    parts: number of equal parts that it must split into.
    what: name of the parts, for the message.

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


def local_replica(tree: Any, mesh: Mesh) -> Any:
  """Global arrays as arrays on the process's own devices, each of which holds them whole.

  Args:
    tree: arrays on a mesh of all devices. Replicated ones are not copied; divided ones are
      gathered, which all processes have to call for.
    mesh: mesh of all of this process's devices.
  """
  sharding = replicated(mesh)
  leaves, structure = jax.tree.flatten(tree)
  divided = [i for i, leaf in enumerate(leaves) if not leaf.is_fully_replicated]
  if divided:
    # On the devices: `device_put` would go by way of the host.
    gather = jax.jit(_as_they_are, out_shardings=replicated(leaves[divided[0]].sharding.mesh))
    for i, whole in zip(divided, gather([leaves[i] for i in divided]), strict=True):
      leaves[i] = whole

  def local(x: jax.Array) -> jax.Array:
    shards = [shard.data for shard in x.addressable_shards]
    return jax.make_array_from_single_device_arrays(x.shape, sharding, shards)

  return jax.tree.unflatten(structure, map(local, leaves))


def _as_they_are(arrays: list[jax.Array]) -> list[jax.Array]:
  return arrays


def sum_over_processes(counts: np.ndarray) -> np.ndarray:
  """Adds int64 arrays of all processes exactly (devices hold no int64, so the halves travel)."""
  if jax.process_count() == 1:
    return counts
  halves = np.ascontiguousarray(counts).view(np.uint32)
  gathered = np.asarray(multihost_utils.process_allgather(halves))  # [P, C, 2 C]
  return np.ascontiguousarray(gathered).view(np.int64).sum(0)


def gather_bytes(own: bytes) -> list[bytes]:
  """What every process has to say, in their order, on every process."""
  if jax.process_count() == 1:
    return [own]
  lengths = sum_over_processes(
    np.eye(jax.process_count(), dtype=np.int64)[[jax.process_index()]] * len(own)
  )[0]
  padded = np.zeros(lengths.max(), np.uint8)
  padded[: len(own)] = np.frombuffer(own, np.uint8)
  gathered = np.asarray(multihost_utils.process_allgather(padded))  # [P, longest]
  return [row[:length].tobytes() for row, length in zip(gathered, lengths, strict=True)]
