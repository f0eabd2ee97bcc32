"""Reading the compilers' notes, and the command's own errors; compiling is what `make aot` does."""

import importlib.util

import jax
import numpy as np
import pytest

from kernels.ms_deform_attn import aot, aot_tpu
from kernels.ms_deform_attn.aot_programs import abstract_arguments
from kernels.ms_deform_attn.arg_specs import ARG_SPECS, make_arguments

# Three grid-level bundles, a loop of two, another grid-level bundle, a loop of one.
PROGRAM = """
= control target key start
LB: loop body
     0   :  { %s1 = inlined_call_operand.vmem [shape: f32[8]] }
   0x1 LB: > { %s2 = sphi }
   0x2   : > {}
second_minor_factor: 1 */ }
   0x3   : > { %v1 = vld }
   0x4 LB: >> { %v2 = vadd }
   0x5   : >> { sbr }
   0x6 PF: > { %v3 = vst }
   0x7 LB: >> { %v4 = vmul }
"""


def test_bundles_of_each_loop():
  schedule = aot_tpu.read_schedule(PROGRAM)
  assert schedule == aot_tpu.Schedule(step=4, bodies=(2, 1))
  assert schedule.total(steps=10, visits=[7, 100]) == 4 * 10 + 2 * 7 + 100


def test_vmem_of_a_kernel():
  program = """
  #allocation0 [shape = 'u32[]', space=smem, size = 0x4, offset = 0x4, fixed_abs, tag = 'x']
  #allocation1 [shape = 'f32[4,64]', space=vmem, size = 0x40000, scoped, tag = 'scratch operand']
    #allocation2 [shape = 'u8[32768]{0}', space=vmem, size = 0x8000, scoped, tag = 'window']
  """
  assert aot_tpu.vmem_bytes(program) == 0x48000


def test_table(capsys):
  rows = [{"shape": "tiny", "HBM MB": 1234.56}, {"shape": "odd", "error": "no room"}]
  assert not aot.print_table(("shape", "HBM MB", "error"), rows)
  header, first, second = capsys.readouterr().out.splitlines()
  assert header.split() == ["shape", "HBM", "MB", "error"]
  assert first.split() == ["tiny", "1,234.6"] and second.split() == ["odd", "no", "room"]
  assert aot.print_table(("shape",), rows[:1])


@pytest.mark.parametrize(
  ("arguments", "message"),
  [([], "no target ''"), (["v9"], "no target 'v9'.*v5e.*h100"), (["h100", "huge"], "'huge'.*tiny")],
)
def test_wrong_use_says_what_there_is(arguments, message):
  with pytest.raises(SystemExit, match=message):
    aot.main(arguments)


@pytest.mark.parametrize(("target", "compiler"), [("v5e", "libtpu"), ("h100", "jax_cuda13_plugin")])
def test_a_missing_compiler_is_named(target, compiler):
  if importlib.util.find_spec(compiler):
    pytest.skip(f"{compiler} is installed")
  with pytest.raises(SystemExit, match=f"{compiler}, is not installed.*make aot"):
    aot.main([target, "tiny"])


def test_abstract_arguments_are_those_of_the_benchmarks():
  spec = ARG_SPECS["tiny"]
  sharding = jax.sharding.SingleDeviceSharding(jax.devices()[0])
  abstract = abstract_arguments(spec, "bfloat16", sharding)
  assert [a.shape for a in abstract[:3]] == [np.shape(a) for a in make_arguments(spec)]
  assert [str(a.dtype) for a in abstract] == ["bfloat16", "float32", "float32", "bfloat16"]
