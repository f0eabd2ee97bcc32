"""Files of events, read by TensorBoard, on a file system and in a store of objects."""

import os
import signal
import subprocess
import sys

import cv2
import fsspec
import numpy as np
import pytest
from etils import epath
from fsspec.implementations import memory
from tensorboard.backend.event_processing import event_accumulator

from ltss_jax.training import event_files, metric_writer
from ltss_jax.workdir import json_lines


def tensorboard(directory):
  """What TensorBoard finds in a folder; it keeps every event instead of a sample."""
  everything = {"scalars": 0, "tensors": 0}
  return event_accumulator.EventAccumulator(str(directory), everything).Reload()


def scalars(directory, name):
  return [(event.step, event.value) for event in tensorboard(directory).Scalars(name)]


def test_scalars_are_there_at_once(tmp_path):
  writer = event_files.EventWriter(tmp_path / "run")
  writer.write_scalars(10, {"loss": np.float32(0.5), "learning_rate": 1e-3})
  writer.write_scalars(20, {"loss": 0.25})
  assert tensorboard(tmp_path / "run").Tags()["scalars"] == ["loss", "learning_rate"]
  assert scalars(tmp_path / "run", "loss") == [(10, 0.5), (20, 0.25)]
  assert scalars(tmp_path / "run", "learning_rate") == [(10, np.float32(1e-3))]
  writer.close()


def test_images_keep_their_pixels(tmp_path):
  pictures = np.random.default_rng(0).integers(0, 256, (2, 8, 24, 3), np.uint8)
  writer = event_files.EventWriter(tmp_path)
  writer.write_images(10, {"examples/0_a.jpg": pictures})
  writer.close()
  events = tensorboard(tmp_path)
  (tag,) = events.Tags()["tensors"]
  assert events.SummaryMetadata(tag).plugin_data.plugin_name == "images"
  (event,) = events.Tensors(tag)
  width, height, *files = event.tensor_proto.string_val
  assert (tag, event.step, width, height) == ("examples/0_a.jpg", 10, b"24", b"8")
  for picture, file in zip(pictures, files, strict=True):
    assert file.startswith(b"\x89PNG")
    pixels = cv2.imdecode(np.frombuffer(file, np.uint8), cv2.IMREAD_COLOR)[..., ::-1]
    np.testing.assert_array_equal(pixels, picture)


_KILLED = """
import os, signal, sys
import numpy as np
from ltss_jax.training import metric_writer
writer = metric_writer.create_writer(sys.argv[1], start_step=0, is_primary=True)
for step in (1, 2, 3):
  writer.write_scalars(step, {"loss": step / 4})
  writer.write_images(step, {"picture": np.full((1, 4, 4, 3), step, np.uint8)})
writer.flush()
writer.write_scalars(4, {"loss": 1.0})
writer.flush()
os.kill(os.getpid(), signal.SIGKILL)
"""


def test_a_resumed_run_replaces_what_a_killed_one_wrote_later(tmp_path):
  """Of three written steps, with the fourth cut off in the middle, two are in the checkpoint."""
  done = subprocess.run([sys.executable, "-c", _KILLED, tmp_path], check=False)
  assert done.returncode == -signal.SIGKILL
  (killed,) = tmp_path.glob("events.out.tfevents.*")
  os.truncate(killed, killed.stat().st_size - 5)
  assert scalars(tmp_path, "loss") == [(1, 0.25), (2, 0.5), (3, 0.75)]
  writer = metric_writer.create_writer(tmp_path, start_step=2, is_primary=True)
  writer.write_scalars(3, {"loss": 3.0})
  writer.close()
  assert scalars(tmp_path, "loss") == [(1, 0.25), (2, 0.5), (3, 3.0)]
  assert [event.step for event in tensorboard(tmp_path).Tensors("picture")] == [1, 2]


class _Objects(memory.MemoryFileSystem):
  """A store that can neither add to an object nor show one that is not complete."""

  protocol = ("gs", "gcs")
  store: dict = {}
  pseudo_dirs = [""]

  @classmethod
  def _strip_protocol(cls, path):
    return "/" + path.removeprefix("gs://").strip("/")

  def _open(self, path, mode="rb", **kwargs):
    assert mode in ("rb", "wb"), mode
    return super()._open(path, mode, **kwargs)


@pytest.fixture(name="bucket")
def _bucket():
  """A folder in a store of objects, through the library that reaches gs:// without TensorFlow."""
  fsspec.register_implementation("gcs", _Objects, clobber=True)
  return epath.Path("gs://bucket/run")


def test_in_a_store_of_objects_every_flush_ends_a_file(bucket, tmp_path):
  for start_step, steps in ((0, (1, 2, 3, 4)), (3, (4, 5))):
    writer = metric_writer.create_writer(bucket, start_step=start_step, is_primary=True)
    for step in steps:
      writer.write_scalars(step, {"loss": start_step + step})
      if step == 2:
        writer.flush()
    writer.close()
  files = sorted(bucket.iterdir())
  assert [path.name.split(".")[0] for path in files] == ["events"] * 3 + ["metrics"]
  for path in files:
    (tmp_path / path.name).write_bytes(path.read_bytes())
  expected = [(1, 1), (2, 2), (3, 3), (4, 7), (5, 8)]
  assert scalars(tmp_path, "loss") == expected
  lines = json_lines.read(tmp_path / "metrics.jsonl")
  assert lines == [{"step": step, "loss": loss} for step, loss in expected]
