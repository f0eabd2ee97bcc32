import numpy as np
import pytest
from PIL import Image

from tests import programs


def run(*arguments):
  """Runs the command and returns (exit status, stdout, stderr)."""
  done = programs.run("-m", "input_pipeline.prepare", *arguments)
  return done.returncode, done.stdout, done.stderr


def test_folder_is_prepared_and_described(tmp_path):
  root = tmp_path / "photos"
  for split in ("train", "val"):
    (root / "images" / split).mkdir(parents=True)
    (root / "annotations" / split).mkdir(parents=True)
    label = Image.fromarray(np.arange(6, dtype=np.uint8).reshape(2, 3) % 2)
    label.save(root / "images" / split / "x.png")
    label.save(root / "annotations" / split / "x.png")
  (root / "classes.txt").write_text("a\nb\nc\n")
  status, stdout, stderr = run("folder", f"--root={root}", f"--data_dir={tmp_path / 'data'}")
  assert status == 0
  assert stdout.startswith(f"photos: 3 classes in {tmp_path}/data/folder/photos-")
  # Image counts 0 1 1, pixel shares 0 1/2 1/2: Gini (3 + 1 - 2 * 3 / 2) / 3 for both.
  line = "1 images, Gini 0.333 (images) and 0.333 (pixels), 1 classes without an image"
  assert f"  train: {line}\n  val: {line}\n" in stdout
  assert "Preparing photos train: 100%" in stderr


@pytest.mark.parametrize(
  ("arguments", "message"),
  [
    (["folder"], "needs its root"),
    (["folder", "--root=/nowhere"], "The data set folder /nowhere does not exist"),
    (["shapes"], "did you mean 'shapes_lt'"),
    (["coco_stuff"], "coco_stuff is not prepared"),
    (["mhp_v2_lt"], "with DIR the directory that holds LV-MHP-v2"),
    (["ade20k", "--raw_dir=/nowhere"], "/nowhere/ADEChallengeData2016 is missing"),
    (["shapes_lt", "--raw_dir=/x"], "--raw_dir belongs to the published data sets"),
    (["shapes_lt", "--target_images=3"], "add --make_long_tailed"),
    (["shapes_lt", "--make_long_tailed"], "needs --target_images, --target_gini or --image_list"),
    (["coco_stuff_lt", "--image_list=x", "--target_images=3"], "which images stay"),
    (["shapes_lt", "--make_long_tailed", "--level=both?"], "flag --level=both?"),
    ([], "Name one data set"),
    (["folder", "--rot=x"], "Unknown command line flag 'rot'"),
    (["folder", "--root=x", "--ignore_label=none"], "flag --ignore_label=none"),
  ],
)
def test_wrong_use_gives_one_message(tmp_path, arguments, message):
  status, stdout, stderr = run(*arguments, f"--data_dir={tmp_path}")
  assert status not in (0, None)
  assert stdout == ""
  assert message in stderr and "Traceback" not in stderr
