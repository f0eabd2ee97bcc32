"""Jobs of two processes equal one process."""

import json
import socket

import jax
import numpy as np
import pytest

from ltss_jax import checkpoint, mesh as mesh_lib
from ltss_jax.results import evaluation_result
from tests import small_models
from tests.main import runs


def two_processes(folder, data_dir, workdir, *arguments, code=0):
  """The outputs of a job of two processes with two devices each, both of which end with a code."""
  with socket.socket() as free:
    free.bind(("localhost", 0))
    port = free.getsockname()[1]
  job = [f"--coordinator_address=localhost:{port}", "--num_processes=2"]
  both = [
    runs.start(folder, data_dir, workdir, *job, f"--process_id={i}", *arguments, devices=2)
    for i in range(2)
  ]
  outputs = [process.communicate(timeout=400)[0] for process in both]
  assert [process.returncode for process in both] == [code, code], "\n".join(outputs)
  return outputs


def backbone(directory):
  """Weights of the backbone alone, to start from."""
  params, stats = (
    {"backbone": tree["backbone"]}
    for tree in small_models.random_weights(small_models.mhp_v2_config())
  )
  checkpoint.save_weights(directory, params, stats, {"contents": "backbone"})
  return directory


def assert_restored_on_one_process(workdir, steps):
  """What two processes saved in quarters comes back bit by bit, under three meshes of one."""
  expected = runs.saved_state(workdir, steps)
  with checkpoint.Checkpoints(workdir / "checkpoints", read_only=True) as saved:
    for fsdp in (1, 2, 4):
      mesh = mesh_lib.data_mesh(fsdp=fsdp)

      def placed(x, mesh=mesh):
        sharding = mesh_lib.state_sharding(x.shape, mesh)
        return jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=sharding)

      state, _ = saved.restore(jax.tree.map(placed, expected), step=steps)
      jax.tree.map(np.testing.assert_array_equal, jax.device_get(state), expected)


def test_two_processes_equal_one(folder, data_dir, tmp_path):
  """One holds the state whole; of the two, each of four devices holds a quarter."""
  steps = 20
  options = (
    f"--config.init.checkpoint={backbone(tmp_path / 'backbone')}",
    "--config.optimizer.name=sgd",
    "--config.optimizer.learning_rate=1e-3",
    "--config.batch_size=8",
    f"--config.train.steps={steps}",
    "--config.train.log_every_steps=1",
    f"--config.eval.every_steps={steps}",
    "--config.eval.save_json=true",
    f"--config.checkpoint.every_steps={steps}",
  )
  one, two = tmp_path / "one", tmp_path / "two"
  process = runs.run(folder, data_dir, one, *options, devices=4)
  assert process.returncode == 0, process.stderr
  quarters = ("--config.mesh.fsdp=4", "--config.train.report=true")
  output, _ = two_processes(folder, data_dir, two, *options, *quarters)
  assert "on 4 x cpu, 2 process(es), the state divided by 4" in output
  assert (two / "report.html").exists()
  assert_restored_on_one_process(two, steps)
  losses = [[value for _, value in runs.metrics(workdir, "loss")] for workdir in (one, two)]
  assert len(losses[0]) == steps
  # The same sums, all-reduced in another order: float32 round-off over 20 steps.
  np.testing.assert_allclose(losses[1], losses[0], rtol=1e-5)
  stats = [jax.tree.leaves(runs.saved_state(workdir, steps)["stats"]) for workdir in (one, two)]
  for theirs, ours in zip(*stats, strict=True):
    np.testing.assert_allclose(ours, theirs, rtol=1e-5, atol=1e-6)
  # 7 validation images do not divide over two processes; the counts of one state are whole numbers.
  files = [one / "eval" / f"{steps}{ending}" for ending in (".json", "_predictions.json")]
  written = [file.read_bytes() for file in files]
  for file in files:
    file.unlink()
  two_processes(folder, data_dir, one, *options, "--mode=evaluate")
  assert [file.read_bytes() for file in files] == written
  assert len({entry["file_name"] for entry in json.loads(written[1])}) == 7


def test_two_processes_report_once_and_export_nothing(folder, data_dir, tmp_path):
  groups = np.array([0, 1, 2])
  record = evaluation_result.make_result(
    np.diag([1, 2, 3]),
    class_names=("sky", "grass", "roof"),
    train_images=groups,
    train_pixel_share=groups,
    image_groups=groups,
    pixel_groups=groups,
  )
  evaluation_result.write_result(record, tmp_path / "eval" / "8.json")
  outputs = two_processes(folder, data_dir, tmp_path, "--mode=report")
  assert ["The report is" in output for output in outputs] == [True, False]
  assert (tmp_path / "report.html").exists()
  exported = tmp_path / "exported"
  arguments = ("--mode=export", f"--output={exported}")
  for output in two_processes(folder, data_dir, tmp_path, *arguments, code=1):
    assert output.count("Error: --mode=export runs in one process, and this job has 2") == 1
    assert "Traceback" not in output
  assert not exported.exists()


MASK2FORMER = (
  "--config.model.name=mask2former",
  "--config.model.channels=32",
  "--config.model.num_queries=8",
  "--config.model.encoder_layers=1",
  "--config.model.decoder_layers=1",
  "--config.loss.num_points=64",
  # AdamW makes whole steps of gradients that are nothing but round-off.
  "--config.optimizer.name=sgd",
  "--config.optimizer.learning_rate=1e-3",
  "--config.optimizer.warmup_steps=0",
)


@pytest.mark.parametrize("matcher", ["scipy", pytest.param("optax", marks=pytest.mark.slow)])
def test_mask2former_on_two_processes_equals_one(folder, data_dir, tmp_path, matcher):
  steps = 10
  options = (
    *MASK2FORMER,
    # What has state or columns of its own in the step: Seesaw's counts, repeated targets.
    "--config.loss.class_loss=seesaw",
    "--config.model.class_head=seesaw",
    "--config.loss.frequency_matcher=true",
    f"--config.loss.matcher={matcher}",
    "--config.batch_size=8",
    f"--config.train.steps={steps}",
    "--config.train.log_every_steps=1",
    f"--config.eval.every_steps={steps}",
    f"--config.checkpoint.every_steps={steps}",
  )
  one, two = tmp_path / "one", tmp_path / "two"
  process = runs.run(folder, data_dir, one, *options, devices=4)
  assert process.returncode == 0, process.stderr
  two_processes(folder, data_dir, two, *options)
  names = ("loss", "loss_class", "loss_mask", "loss_dice")
  losses = [np.array(runs.metrics(workdir, *names))[:, 1:] for workdir in (one, two)]
  assert losses[0].shape == (steps, 4)
  # The same sums in another order, and what ten updates make of the round-off.
  np.testing.assert_allclose(losses[1], losses[0], rtol=1e-4)
  counts = [
    np.asarray(runs.saved_state(workdir, steps)["stats"]["transformer_decoder"]["seesaw_counts"])
    for workdir in (one, two)
  ]
  # Every image has a class, whose query is counted for both predictions.
  assert counts[0].sum() >= steps * 8 * 2
  np.testing.assert_array_equal(counts[1], counts[0])
