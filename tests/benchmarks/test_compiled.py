"""Programs of four virtual devices whose traffic is known by hand."""

import jax
import jax.numpy as jnp
import pytest
from jax.sharding import PartitionSpec

from benchmarks.compiled import Collectives, Program
from ltss_jax import mesh as mesh_lib

MIB = 2**20


def traffic(function, *arrays):
  """What a function of float32 arrays, divided over four devices, sends."""
  mesh = mesh_lib.data_mesh(jax.devices()[:4], fsdp=4)
  spec = PartitionSpec("fsdp")
  divided = jax.shard_map(
    function, mesh=mesh, in_specs=spec, out_specs=spec, axis_names={"fsdp"}, check_vma=False
  )
  shapes = [jax.ShapeDtypeStruct(shape, jnp.float32) for shape in arrays]
  program = jax.jit(divided).lower(*shapes).compile().as_text()
  found = Program(program).collectives(4)
  return {kind: (entry.count, entry.sent) for kind, entry in found.items()}


def looped(x):
  """Three sums, one after the other."""
  return jax.lax.scan(lambda x, _: (jax.lax.psum(jnp.sin(x), "fsdp"), None), x, length=3)[0]


# Of an array of 4 MiB, a quarter on each device.
@pytest.mark.parametrize(
  "function, expected",
  [
    (lambda x: jnp.sin(x), {}),
    (lambda x: jax.lax.all_gather(x, "fsdp")[0], {"all-gather": (1, 3 * MIB)}),
    (lambda x: jax.lax.psum(x, "fsdp"), {"all-reduce": (1, 1.5 * MIB)}),
    (lambda x: jax.lax.psum_scatter(x, "fsdp"), {"reduce-scatter": (1, 0.75 * MIB)}),
    (lambda x: jax.lax.ppermute(x, "fsdp", [(0, 1), (1, 0)]), {"collective-permute": (1, MIB)}),
    (looped, {"all-reduce": (3, 4.5 * MIB)}),
  ],
)
def test_bytes_that_a_device_sends(function, expected):
  assert traffic(function, (16, 2**16)) == expected


# Lines as the TPU's compiler writes them; 2 groups of 2 devices, then all 4.
TPU_PROGRAM = """\
HloModule step

%add (a: f32[], b: f32[]) -> f32[] {
  ROOT %sum = f32[]{:T(128)} add(f32[]{:T(128)} %a, f32[]{:T(128)} %b)
}

%all-reduce-scatter.1 (p: f32[1024,256]) -> f32[256,256] {
  %all-reduce.3 = f32[1024,256]{1,0:T(8,128)} all-reduce(%p), \
    replica_groups=[1,4]<=[4], to_apply=%add
  ROOT %slice = f32[256,256]{1,0:T(8,128)} dynamic-slice(%all-reduce.3, %i, %j)
}

ENTRY %main (w: bf16[512,256]) -> f32[256,256] {
  %start = (bf16[512,256]{1,0:T(8,128)(2,1)}, bf16[1024,256]{1,0}) all-gather-start(%w), \
    replica_groups={{0,1},{2,3}}
  %done = bf16[1024,256]{1,0} all-gather-done(%start)
  ROOT %fusion = f32[256,256]{1,0} fusion(%grad), kind=kCustom, calls=%all-reduce-scatter.1
}
"""


def test_asynchronous_gathers_and_sums_that_are_scattered():
  found = Program(TPU_PROGRAM).collectives(4)
  assert found == {
    "all-gather": Collectives(1, 1024 * 256 * 2 / 2),
    "reduce-scatter": Collectives(1, 1024 * 256 * 4 * 3 / 4),
  }
