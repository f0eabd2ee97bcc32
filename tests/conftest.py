"""Settings that have to stand before the libraries are imported."""

import os

# Tests run on the CPU, whatever the machine has; set the variable to test on an accelerator.
os.environ.setdefault("JAX_PLATFORMS", "cpu")
# Four virtual devices, for what must not depend on their number.
os.environ.setdefault("XLA_FLAGS", "--xla_force_host_platform_device_count=4")
# Paths such as gs:// without TensorFlow, where it is installed, too.
os.environ.setdefault("EPATH_USE_TF", "false")

import hypothesis
from absl import flags

# Worker processes of the input pipeline read absl flags, which pytest never parses.
flags.FLAGS.mark_as_parsed()

# The same examples on every run; no deadline, as a first call may compile or import.
hypothesis.settings.register_profile("repeatable", derandomize=True, deadline=None, max_examples=50)
hypothesis.settings.load_profile("repeatable")
