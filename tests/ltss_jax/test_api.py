"""The interface for other Python programs."""

import os
import re

import jax
import numpy as np
import pytest
from etils import epath
from PIL import Image

import ltss_jax
from input_pipeline import decode
from input_pipeline.raw import record
from ltss_jax import build, checkpoint, mesh as mesh_lib, optimizer
from ltss_jax.prediction import predict
from ltss_jax.training import train_step
from ltss_jax.workdir import run_config
from tests import image_bytes, programs, small_models
from tests.small_models import NUM_CLASSES


@pytest.fixture(name="converted", scope="module")
def _converted(tmp_path_factory):
  """Weights as the conversion writes them, of a DeepLabV3+ for MHP-v2."""
  directory = tmp_path_factory.mktemp("weights") / "converted"
  small_models.write_weights(directory, small_models.mhp_v2_config(), crop_size=96)
  return directory


@pytest.fixture(name="model", scope="module")
def _model(converted):
  return ltss_jax.load(converted, config=small_models.mhp_v2_config())


def picture(height, width):
  cells = np.random.default_rng(1).integers(0, 256, (4, 6, 3), dtype=np.uint8)
  return np.array(Image.fromarray(cells).resize((width, height), Image.Resampling.BICUBIC))


def test_path_image_and_array_give_what_the_command_writes(model, converted, tmp_path):
  image, source, output = picture(64, 96), tmp_path / "in.png", tmp_path / "out"
  Image.fromarray(image).save(source)
  results = [model(source), model(str(source)), model(Image.fromarray(image)), model(image)]
  predict.predict(
    small_models.mhp_v2_config(), "none", source=source, output=output, weights=converted
  )
  expected = np.array(Image.open(output / "in.png"))
  for result in results:
    assert result.labels.dtype == np.uint8
    np.testing.assert_array_equal(result.labels, expected)
  assert len(results[0].classes) == NUM_CLASSES and results[0].classes == model.classes
  np.testing.assert_array_equal(
    results[0].overlay(), np.array(Image.open(output / "in_overlay.png"))
  )


def test_scores_are_those_that_the_labels_are_the_argmax_of(model):
  result = model(picture(40, 60))
  assert result.scores.shape == (NUM_CLASSES, 40, 60) and result.scores.dtype == np.float32
  assert result.scores is result.scores  # computed once
  # Two classes may be equal but for the rounding of two programs.
  assert (result.scores.argmax(0) == result.labels).mean() > 0.995


def test_images_of_any_kind(model):
  turned = Image.fromarray(picture(64, 96))
  exif = turned.getexif()
  exif[0x0112] = 6
  assert model(turned).labels.shape == (96, 64)
  assert turned.size == (96, 64)  # the caller's image stays as it is
  for mode in ("L", "CMYK", "RGBA", "P", "I;16"):
    image = Image.fromarray(picture(32, 48)).convert("L" if mode == "I;16" else mode).convert(mode)
    assert model(image).labels.shape == (32, 48)
  assert model(np.zeros((1, 1, 3), np.uint8)).labels.shape == (1, 1)


@pytest.mark.parametrize(
  ("image", "message"),
  [
    (np.zeros((4, 5, 3), np.float32), r"type float32 and shape \(4, 5, 3\); give RGB as uint8 or"),
    (np.zeros((4, 5), np.uint8), r"shape \(4, 5\)"),
    (np.zeros((4, 0, 3), np.uint8), r"shape \(4, 0, 3\)"),
    ("nowhere.png", r"nowhere\.png: .*the file is missing"),
    ("/dev", r"/dev: .*it is a folder, not a file"),
    ("/dev/zero", r"/dev/zero: .*it is a device, not a file"),
    (Image.new("F", (5, 4)), r"the image cannot be taken: its values are floating-point"),
    (Image.new("I", (5, 4)), r"the image cannot be taken: its values are 32-bit integers"),
    (None, "type NoneType"),
  ],
)
def test_what_is_no_image_is_refused(model, image, message):
  with pytest.raises(ValueError, match=message):
    model(image)


@pytest.mark.usefixtures("no_waiting")
def test_a_named_pipe_is_not_opened(model, tmp_path):
  os.mkfifo(tmp_path / "pipe.jpg")
  with pytest.raises(ValueError, match=r"pipe\.jpg: .*it is a named pipe, not a file"):
    model(tmp_path / "pipe.jpg")


@pytest.mark.parametrize(
  ("suffix", "channels"), [*(("png", n) for n in (1, 2, 3, 4)), *(("tif", n) for n in (1, 3, 4))]
)
def test_16_bits_are_the_same_as_path_image_array_and_training_record(
  model, tmp_path, suffix, channels, caplog
):
  values = np.random.default_rng(0).integers(0, 2**16, (40, 48, channels), np.uint16)
  values[0, 0] = 65535
  rgb = values[..., :3] if channels > 2 else np.repeat(values[..., :1], 3, axis=-1)
  path = epath.Path(tmp_path / f"deep.{suffix}")
  path.write_bytes(image_bytes.png(values, 16) if suffix == "png" else image_bytes.tiff(values))
  expected = np.rint(rgb / 257)
  stored = decode.decode_image(record.read_image(path).data, "x")
  for image in (path, str(path), Image.open(path), rgb):
    np.testing.assert_array_equal(model(image).image, expected)
  np.testing.assert_array_equal(stored, expected)
  assert not caplog.messages
  model(rgb // 16)
  assert "the image: it has 16 bits a channel, but its largest value is 4095" in caplog.text


def _run_documented_program(workdir):
  """Runs the Python block of docs/prediction.md on a run and a photograph."""
  text = (programs.REPOSITORY / "docs" / "prediction.md").read_text()
  [program] = re.findall(r"```python\n(.*?)```", text, re.DOTALL)
  (workdir / "runs").mkdir()
  (workdir / "runs" / "demo").symlink_to(workdir)
  Image.fromarray(picture(32, 48)).save(workdir / "photo.jpg")
  env = programs.environment(PYTHONPATH=str(programs.REPOSITORY))
  process = programs.run("-c", program, cwd=workdir, env=env, check=True)
  assert process.stdout == "(32, 48) {'Background'}\n"  # all weights are 0


def test_a_run_knows_its_own_config(model, tmp_path):
  config = small_models.mhp_v2_config()
  config.data.crop_size = 77
  devices = mesh_lib.data_mesh()
  objective = build.build_objective(config, num_classes=NUM_CLASSES, ignore_label=255, mesh=devices)
  transform = optimizer.make_optimizer(
    build.optimizer_config(config), objective.decays, objective.layers_above
  )
  abstract = train_step.abstract_state(objective, transform, devices)
  zeros = jax.tree.map(lambda x: np.zeros(x.shape, x.dtype), abstract)
  state = jax.device_put(zeros, mesh_lib.replicated(devices))
  with checkpoint.Checkpoints(tmp_path / "checkpoints") as saved:
    saved.save(3, state, {"position": 3}, miou=1.0)
  run_config.write(tmp_path, config)
  loaded = ltss_jax.load(tmp_path)
  assert loaded.config.data.crop_size == 77 and loaded.config.model.aspp_dilations == (1,)
  assert loaded.classes == model.classes
  _run_documented_program(tmp_path)
  (tmp_path / "config.json").write_text("{")
  with pytest.raises(ValueError, match=r"config\.json is not readable as JSON"):
    ltss_jax.load(tmp_path)


def test_converted_weights_know_their_data_set(converted):
  loaded = ltss_jax.load(converted)
  assert loaded.config.data.name == "mhp_v2" and loaded.config.model.aspp_channels == 8
  assert loaded.config.eval.min_size == 512  # of the data set's recipe
  assert loaded.config.data.crop_size == 96


def test_a_model_of_squares_sees_windows_of_the_crop_of_its_weights(tmp_path):
  config = small_models.mhp_v2_config("eomt")
  small_models.write_weights(tmp_path / "converted", config, crop_size=32)
  loaded = ltss_jax.load(tmp_path / "converted")
  assert (loaded.config.data.crop_size, loaded.config.eval.min_size) == (32, 32)
  image = picture(97, 131)
  Image.fromarray(image).save(tmp_path / "in.png")
  command = loaded.config.copy_and_resolve_references()
  predict.predict(
    command,
    "none",
    source=tmp_path / "in.png",
    output=tmp_path / "out",
    weights=tmp_path / "converted",
  )
  labels = loaded(image).labels
  np.testing.assert_array_equal(labels, np.array(Image.open(tmp_path / "out" / "in.png")))
  assert labels.shape == (97, 131) and len(np.unique(labels)) > 2
  command.model.backbone, command.data.crop_size = "dinov3_s", 0  # whose weights fit any crop
  with pytest.raises(
    ValueError, match=r"^config\.model\.name='eomt' needs config\.data\.crop_size"
  ):
    predict.predict(command, "none", source=tmp_path / "in.png", output=tmp_path / "none")


def test_a_missing_checkpoint_and_one_without_classes(converted, tmp_path):
  with pytest.raises(checkpoint.CheckpointError, match=r"nowhere does not exist; give the workdir"):
    ltss_jax.load(tmp_path / "nowhere")
  with pytest.raises(checkpoint.CheckpointError, match="holds no converted weights"):
    ltss_jax.load(tmp_path)
  params, stats, info = checkpoint.load_weights(converted)
  checkpoint.save_weights(tmp_path / "own", params, stats, info | {"data": "folder"})
  with pytest.raises(ValueError, match=r"data set 'folder', which names no classes; give load"):
    ltss_jax.load(tmp_path / "own")


def test_importing_the_package_imports_nothing_else():
  code = "import sys, ltss_jax; print('jax' in sys.modules, ltss_jax.load.__name__)"
  process = programs.run("-c", code, check=True)
  assert process.stdout.split() == ["False", "load"]
  with pytest.raises(AttributeError, match="no attribute 'lod'"):
    ltss_jax.lod  # noqa: B018
