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


# Lines as the TPU's compiler writes them, shortened.
TPU_PROGRAM = """\
HloModule step

%add (a: f32[], b: f32[]) -> f32[] {
  ROOT %sum = f32[]{:T(128)} add(%a, %b)
}

%all-reduce-scatter.1 (p: f32[1024,256]) -> f32[256,256] {
  %all-reduce.3 = f32[1024,256]{1,0:T(8,128)} all-reduce(%p), \
replica_groups=[1,4]<=[4], to_apply=%add
  ROOT %slice = f32[256,256]{1,0:T(8,128)} slice(%all-reduce.3)
}

%begins (p: bf16[512,256]) -> (bf16[512,256], bf16[1024,256]) {
  %all-gather.1 = bf16[1024,256]{1,0} all-gather(%p), channel_id=2, \
replica_groups=mesh['axis_0'=2,'axis_1'=2] {'axis_1'}, dimensions={0}
  ROOT %custom-call.1 = (bf16[512,256]{1,0:S(1)}, bf16[1024,256]{1,0}) custom-call(%all-gather.1)
}

%computes (p: bf16[512,256]) -> bf16[1024,256] {
  ROOT %all-gather.2 = bf16[1024,256]{1,0} all-gather(%p), channel_id=2, \
replica_groups=mesh['axis_0'=2,'axis_1'=2] {'axis_1'}, dimensions={0}
}

ENTRY %main (w: bf16[512,256], grad: f32[1024,256]) -> f32[256,256] {
  %w = bf16[512,256]{1,0:T(8,128)(2,1)} parameter(0)
  %grad = f32[1024,256]{1,0:T(8,128)} parameter(1)
  %start = (bf16[512,256]{1,0:S(1)}, bf16[1024,256]{1,0}) fusion(%w), kind=kCustom, calls=%begins
  %step = bf16[1024,256]{1,0} fusion(%w), kind=kCustom, calls=%computes
  %sent = (f32[64]{0}, f32[64]{0}, u32[]{:S(2)}, u32[]{:S(2)}) \
collective-permute-start(%grad), channel_id=3, source_target_pairs={{0,3},{1,0}}
  %kept = f32[64]{0} collective-permute-done(%sent)
  ROOT %fusion = f32[256,256]{1,0} fusion(%grad), kind=kCustom, calls=%all-reduce-scatter.1
}
"""


def test_fused_and_asynchronous_operations_of_a_tpu():
  found = Program(TPU_PROGRAM).collectives(4)
  assert found["all-gather"] == Collectives(1, 1024 * 256 * 2 / 2)
  assert found["reduce-scatter"] == Collectives(1, 1024 * 256 * 4 * 3 / 4)
  assert found["collective-permute"].count == 1
  assert found["collective-permute"].sent == pytest.approx(64 * 4, abs=4)  # and its two flags
  assert len(found) == 3


def test_bytes_of_the_main_memory():
  read = """\
%half (p: f32[8,8]) -> f32[4,8] {
  ROOT %dynamic-slice.1 = f32[4,8]{1,0} dynamic-slice(%p, %i, %j), dynamic_slice_sizes={4,8}
}

%add (a: f32[8,8]) -> f32[8,8] {
  ROOT %sum = f32[8,8]{1,0} add(%a, %a)
}

%body (p: f32[8,8]) -> f32[8,8] {
  ROOT %sine = f32[8,8]{1,0} sine(%p)
}

ENTRY %main (x: f32[8,8], w: bf16[8,8]) -> f32[4,8] {
  %x = f32[8,8]{1,0:T(8,128)} parameter(0)
  %w = bf16[8,8]{1,0:T(8,128)} parameter(1)
  %fast = f32[8,8]{1,0:T(8,128)S(1)} fusion(%x, %w), kind=kLoop, calls=%add
  %loop = f32[8,8]{1,0} while(%fast), body=%body, backend_config={"known_trip_count":{"n":"3"}}
  ROOT %part = f32[4,8]{1,0} fusion(%loop), kind=kLoop, calls=%half
}
"""
  # The first fusion reads both arguments and writes on the chip; three sines, of what is not known
  # by name, write; the slice is left out.
  assert Program(read).memory_bytes() == (256 + 128) + 3 * 256


def test_slices_of_gathers_and_scatters():
  """Rows of a table, single numbers, and none."""

  def program(function, *shapes):
    arrays = [jax.ShapeDtypeStruct(shape, jnp.float32) for shape in shapes]
    return Program(jax.jit(function).lower(*arrays).compile().as_text())

  index = jnp.arange(0, 200, 3)
  assert program(lambda x: x[index], (200, 50)).most_gathered() == 67
  assert program(lambda x: x[index, index] + x[0, index], (200, 200)).most_gathered() == 67
  assert program(lambda x: x + 1, (200, 50)).most_gathered() == 0


def test_slices_of_scatters():
  """Rows of three numbers, as the TPU's compiler writes it; for a CPU scatters become loops."""
  program = Program("""\
ENTRY %main (a: f32[9,3], b: s32[4,5], c: f32[4,5,3]) -> f32[9,3] {
  %a = f32[9,3]{1,0:T(8,128)} parameter(0)
  %b = s32[4,5]{1,0:T(8,128)} parameter(1)
  %c = f32[4,5,3]{2,1,0:T(8,128)} parameter(2)
  ROOT %d = f32[9,3]{1,0:T(8,128)} scatter(%a, %b, %c), update_window_dims={2}, \
inserted_window_dims={0}, scatter_dims_to_operand_dims={0}, index_vector_dim=2, to_apply=%add
}""")
  assert program.most_gathered() == 20
