"""From a checkpoint in the published format to mIoU and pictures, by the documented commands."""

import functools
import json
import pickle

import numpy as np
import pytest
from PIL import Image

from input_pipeline import datasets
from tests import programs
from tests.golden import official_parameters

run = functools.partial(programs.run, check=True)


def prepare_coco_stuff(root, image, label):
  """Writes the tree that is published, with one image in each split, and prepares it."""
  ids = np.array(datasets.find_spec("coco_stuff").class_table.metadata.dataset_ids)
  for folder in ("train2017", "val2017"):
    for kind in ("images", "stuffthingmaps_trainval2017"):
      (root / "raw" / kind / folder).mkdir(parents=True)
    Image.fromarray(image).save(root / "raw" / "images" / folder / "0.jpg", quality=100)
    values = Image.fromarray((ids[label] - 1).astype(np.uint8))
    values.save(root / "raw" / "stuffthingmaps_trainval2017" / folder / "0.png")
  directories = f"--raw_dir={root / 'raw'}", f"--data_dir={root / 'data'}"
  run("-m", "input_pipeline.prepare", "coco_stuff", *directories)


@pytest.mark.parametrize(
  ("variant", "golden", "tolerance"),
  [
    # Sums of 100 products of probabilities, up to 7, after float32 round-off of 60 layers.
    ("mask2former", "mask2former_r50_171", 1e-3),
    # Logits up to 4, likewise.
    ("deeplabv3plus", "deeplabv3plus_r50_171", 1e-3),
  ],
)
def test_from_pickle_to_miou_and_pictures_as_published(tmp_path, variant, golden, tolerance):
  expected = np.load(programs.GOLDEN / f"{golden}.npz")
  (tmp_path / "in").mkdir()
  image = np.load(programs.GOLDEN / "images.npz")["batch"][0]
  Image.fromarray(image).save(tmp_path / "in" / "street.png")
  with (tmp_path / "model.pkl").open("wb") as file:
    state = official_parameters.official_state(f"{golden}_names.json")
    pickle.dump({"model": state, "__author__": "test"}, file, protocol=4)
  config = f"--config=configs/coco_stuff.py:model={variant}"
  weights, output = tmp_path / "weights", tmp_path / "out"
  run("-m", "ltss_jax.convert", config, f"--source={tmp_path / 'model.pkl'}", f"--output={weights}")
  (tmp_path / "model.pkl").unlink()
  run(
    "main.py",
    "--mode=predict",
    config,
    f"--checkpoint={weights}",
    f"--input={tmp_path / 'in'}",
    f"--output={output}",
    "--config.predict.save_scores=true",
    "--config.eval.min_size=0",
  )
  prepare_coco_stuff(tmp_path, image, expected["sem0_argmax"])
  run(
    "main.py",
    "--mode=evaluate",
    config,
    f"--checkpoint={weights}",
    f"--workdir={tmp_path / 'run'}",
    f"--config.data.dir={tmp_path / 'data'}",
    "--config.eval.min_size=0",
    "--config.eval.batch_size=1",
    "--config.train.report=false",
  )
  record = json.loads((tmp_path / "run" / "eval" / "weights.json").read_text())
  # The labels are the published model's own; JPEG has changed its image, and random weights
  # have many small regions.
  assert record["mIoU"] > 30 and record["pACC"] > 50
  assert np.asarray(Image.open(output / "street_overlay.png")).shape == (128, 160, 3)
  labels = np.array(Image.open(output / "street.png"))
  assert labels.shape == (128, 160) and labels.dtype == np.uint8
  assert np.mean(labels == expected["sem0_argmax"]) >= 0.9995
  scores = np.load(output / "street.npz")["scores"]
  assert scores.shape == (171, 128, 160) and scores.dtype == np.float32
  y, x = expected["pixels"].T
  np.testing.assert_allclose(scores[:, y, x].T, expected["sem0_scores_at_pixels"], atol=tolerance)
