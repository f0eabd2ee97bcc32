"""The loop itself, on a folder of four images; tests/main has the runs of whole processes."""

import jax
import numpy as np
import pytest
from PIL import Image

from configs import folder
from ltss_jax import mesh as mesh_lib
from ltss_jax.training import loop

NUM_STEPS = 4


@pytest.fixture(scope="module")
def photos(tmp_path_factory):
  """The folder, and where it is prepared."""
  root, rng = tmp_path_factory.mktemp("photos"), np.random.default_rng(0)
  for split in ("train", "val"):
    for kind, shape in (("images", (36, 40, 3)), ("annotations", (36, 40))):
      (root / kind / split).mkdir(parents=True)
      for i in range(4):
        values = rng.integers(0, 3, shape).astype(np.uint8)
        Image.fromarray(values).save(root / kind / split / f"{i}.png")
  (root / "classes.txt").write_text("sky\ngrass\nroof\n")
  return root, tmp_path_factory.mktemp("data")


@pytest.fixture
def config(photos):
  """A training of a tenth of a second a step."""
  config = folder.get_config()
  root, data_dir = photos
  config.update_from_flattened_dict(
    {
      "data.root": str(root),
      "data.dir": str(data_dir),
      "data.crop_size": 32,
      "data.num_workers": 0,
      "model.aspp_channels": 8,
      "model.aspp_dilations": (1,),
      "model.low_level_channels": 8,
      "model.decoder_channels": 8,
      "batch_size": 4,
      "eval.batch_size": 4,
      "train.steps": NUM_STEPS,
      "train.log_every_steps": 1,
      "train.report": False,
    }
  )
  return config


def test_a_step_that_moves_arrays_unasked_is_an_error(config, tmp_path, monkeypatch):
  """On CPU alone the other direction, reading results, is no transfer."""
  put_batch = mesh_lib.put_batch

  def forgotten(batch, mesh):  # The compiled step would take the host's arrays as they are.
    return put_batch(batch, mesh) | {"image": batch["image"]}

  monkeypatch.setattr(mesh_lib, "put_batch", forgotten)
  with pytest.raises(jax.errors.JaxRuntimeError, match="Disallowed host-to-device transfer"):
    loop.train(config, tmp_path)
