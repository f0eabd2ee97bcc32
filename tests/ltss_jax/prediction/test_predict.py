"""Prediction with real weights on disk, real images and small models."""

import dataclasses
import json
import os

import jax
import numpy as np
import pytest
from etils import epath
from PIL import Image

from input_pipeline import datasets
from ltss_jax import architectures, build, checkpoint, dataset, mesh, optimizer
from ltss_jax.inference import restore
from ltss_jax.models import deeplabv3plus
from ltss_jax.prediction import predict
from ltss_jax.training import train_step
from ltss_jax.workdir import run_config
from tests import small_models
from tests.small_models import NUM_CLASSES


@pytest.fixture(name="weights", scope="module")
def _weights(tmp_path_factory):
  """(directory, params, stats) of a small DeepLabV3+."""
  directory = tmp_path_factory.mktemp("weights") / "converted"
  return directory, *small_models.write_weights(directory, small_models.mhp_v2_config())


def picture(height, width, seed):
  """Smooth colours, uint8 [H, W, 3]."""
  cells = np.random.default_rng(seed).integers(0, 256, (4, 6, 3), dtype=np.uint8)
  return np.array(Image.fromarray(cells).resize((width, height), Image.Resampling.BICUBIC))


@pytest.fixture(name="images", scope="module")
def _images(tmp_path_factory):
  """Photographs as people have them; all but one make inputs of 32 x 48."""
  folder = tmp_path_factory.mktemp("photos")
  Image.fromarray(picture(32, 48, 0)).save(folder / "same size.png")
  Image.fromarray(picture(64, 96, 1)).save(folder / "larger.v2.JPG", format="JPEG")
  Image.fromarray(picture(64, 96, 1)).convert("L").save(folder / "grey.png")
  Image.fromarray(picture(64, 96, 2)).convert("RGBA").save(folder / "alpha.png")
  deep = picture(64, 96, 3)[..., 0].astype(np.uint16) * 257
  Image.fromarray(deep).save(folder / "deep.png")
  exif = Image.Exif()
  exif[0x0112] = 6  # to be turned by 90 degrees clockwise
  turned = Image.fromarray(picture(64, 96, 4))
  turned.transpose(Image.Transpose.ROTATE_90).save(folder / "turned.png", exif=exif)
  (folder / "notes.txt").write_text("no image")
  return folder


def expected_label(config, params, stats, image):
  """The label map of one image, step by step."""
  height, width = image.shape[:2]
  small = Image.fromarray(image).resize((48, 32), Image.Resampling.BILINEAR)
  normal = architectures.normalize(np.asarray(small)[None])
  logits, _ = build.model_functions(config, NUM_CLASSES).apply(params, stats, normal, train=False)
  logits = deeplabv3plus.full_resolution(logits, 32, 48)
  logits = jax.image.resize(logits[0], (height, width, NUM_CLASSES), "bilinear", antialias=False)
  return np.asarray(logits.argmax(-1))


def read(path):
  return np.array(Image.open(path))


def test_every_image_gets_its_label_map_and_overlay(weights, images, tmp_path):
  directory, params, stats = weights
  config = small_models.mhp_v2_config()
  output = tmp_path / "new" / "out"
  predict.predict(config, "none", source=images, output=output, weights=directory)
  stems = ["alpha", "deep", "grey", "larger.v2", "same size", "turned"]
  expected = [f"{stem}{end}" for stem in stems for end in (".png", "_overlay.png")]
  assert sorted(path.name for path in output.iterdir()) == sorted(expected)
  for stem in stems:
    label, overlay = read(output / f"{stem}.png"), read(output / f"{stem}_overlay.png")
    size = (32, 48) if stem == "same size" else (64, 96)
    assert label.shape == size and label.dtype == np.uint8
    assert overlay.shape == (*size, 3) and overlay.dtype == np.uint8
  for stem, image in {
    "same size": picture(32, 48, 0),
    "alpha": picture(64, 96, 2),
    "turned": picture(64, 96, 4),
    "larger.v2": read(images / "larger.v2.JPG"),
    "grey": np.repeat(read(images / "grey.png")[..., None], 3, axis=-1),
  }.items():
    label = read(output / f"{stem}.png")
    assert len(np.unique(label)) > 3
    # Scores of two classes are equal, to float32 round-off, along the borders between them.
    assert (label == expected_label(config, params, stats, image)).mean() > 0.995, stem


def test_one_broken_file_is_reported_and_the_others_are_written(weights, images, tmp_path):
  folder, output = tmp_path / "in", tmp_path / "out"
  folder.mkdir()
  output.mkdir()
  whole = (images / "larger.v2.JPG").read_bytes()
  (folder / "whole.jpg").write_bytes(whole)
  (folder / "half.jpg").write_bytes(whole[: len(whole) // 2])
  (folder / "text.png").write_text("no image")
  (output / "whole.png").write_text("of an earlier prediction")
  (output / "mine.txt").write_text("untouched")
  config = small_models.mhp_v2_config()
  with pytest.raises(ValueError, match=r"2 of 3 images were skipped \(.*the other 1 are in"):
    predict.predict(config, "none", source=folder, output=output, weights=weights[0])
  names = sorted(path.name for path in output.iterdir())
  assert names == ["mine.txt", "whole.png", "whole_overlay.png"]
  assert read(output / "whole.png").shape == (64, 96)
  assert (output / "mine.txt").read_text() == "untouched"


def test_on_request_there_are_a_summary_and_masks_of_a_pattern_of_images(weights, images, tmp_path):
  config, output = small_models.mhp_v2_config(), tmp_path / "out"
  config.predict.save_summary = config.predict.save_json = True
  (tmp_path / "empty.png").touch()
  Image.new("RGB", (1, 1), "red").save(tmp_path / "one.png")
  (tmp_path / "linked.jpg").symlink_to(images / "larger.v2.JPG")
  with pytest.raises(ValueError, match=r"1 of 3 images were skipped \(empty\.png\)"):
    predict.predict(config, "none", source=tmp_path / "*.*g", output=output, weights=weights[0])
  summary = {
    entry["file_name"]: entry for entry in json.loads((output / "summary.json").read_text())
  }
  assert summary.keys() == {"empty.png", "one.png", "linked.jpg"}
  assert "the file is empty" in summary["empty.png"]["error"]
  assert [entry["pixels"] for entry in summary["one.png"]["classes"]] == [1]
  label = read(output / "linked.png")
  masks = json.loads((output / "predictions.json").read_text())
  found = {mask["category_id"] for mask in masks if mask["file_name"] == "linked.jpg"}
  assert found == set(np.unique(label))  # MHP-v2's own ids are the train ids
  assert sum(entry["pixels"] for entry in summary["linked.jpg"]["classes"]) == label.size


def test_a_file_name_that_is_no_utf8_is_one_like_others(weights, tmp_path):
  config, folder, output = small_models.mhp_v2_config(), tmp_path / "in", tmp_path / "out"
  config.predict.save_summary = config.predict.save_json = True
  folder.mkdir()
  name = os.fsdecode(b"caf\xe9.png")
  Image.fromarray(picture(32, 48, 0)).save(folder / name)
  predict.predict(config, "none", source=folder, output=output, weights=weights[0])
  (entry,) = json.loads((output / "summary.json").read_text())
  assert entry["file_name"] == name
  assert {e["file_name"] for e in json.loads((output / "predictions.json").read_text())} == {name}
  assert (output / name).exists()


def test_a_prediction_that_fails_in_the_middle_keeps_what_was_done(weights, tmp_path):
  config, folder, output = small_models.mhp_v2_config(), tmp_path / "in", tmp_path / "out"
  config.predict.save_summary = True
  folder.mkdir()
  for name in ("a.png", "b.png"):
    Image.fromarray(picture(32, 48, 0)).save(folder / name)
  (output / "b.png").mkdir(parents=True)  # in the place of a label map
  with pytest.raises(OSError, match=r"b\.png"):
    predict.predict(config, "none", source=folder, output=output, weights=weights[0])
  summary = json.loads((output / "summary.json").read_text())
  assert [entry["file_name"] for entry in summary] == ["a.png"]
  assert not list(output.glob("*.unfinished"))


def test_images_are_seen_as_the_evaluation_is_told_to(weights, images, tmp_path):
  """Averaged over the mirrored image, a symmetric image has symmetric labels."""
  half = picture(64, 48, 5)
  Image.fromarray(np.concatenate([half, half[:, ::-1]], axis=1)).save(tmp_path / "both.png")
  config, directory = small_models.mhp_v2_config(), weights[0]
  config.eval.flip = True
  labels = {}
  for flip in (False, True):
    config.eval.flip, output = flip, tmp_path / f"flip={flip}"
    source = tmp_path / "both.png"
    predict.predict(config, "none", source=source, output=output, weights=directory)
    labels[flip] = read(output / "both.png")
  swapped = np.arange(NUM_CLASSES)
  for left, right in datasets.find_spec("mhp_v2").class_table.metadata.flip_pairs:
    swapped[left], swapped[right] = right, left
  same = {flip: (label == swapped[label[:, ::-1]]).mean() for flip, label in labels.items()}
  assert same[True] > 0.98 > same[False]


def test_scores_of_mask2former_are_probabilities_at_the_original_size(images, tmp_path):
  config = small_models.mhp_v2_config("mask2former")
  config.predict.save_scores = True
  small_models.write_weights(tmp_path / "converted", config)
  source, output = images / "larger.v2.JPG", tmp_path / "out"
  predict.predict(config, "none", source=source, output=output, weights=tmp_path / "converted")
  names = sorted(path.name for path in output.iterdir())
  assert names == ["larger.v2.npz", "larger.v2.png", "larger.v2_overlay.png"]
  with np.load(output / "larger.v2.npz") as file:
    scores = file["scores"]
  assert scores.shape == (NUM_CLASSES, 64, 96) and scores.dtype == np.float32
  assert scores.min() > 0 and scores.sum(0).max() < config.model.num_queries
  np.testing.assert_array_equal(read(output / "larger.v2.png"), scores.argmax(0))


def test_a_run_predicts_as_its_weights_do(weights, images, tmp_path):
  directory, params, stats = weights
  config = small_models.mhp_v2_config()
  devices = mesh.data_mesh()
  objective = build.build_objective(config, num_classes=NUM_CLASSES, ignore_label=255, mesh=devices)
  transform = optimizer.make_optimizer(
    build.optimizer_config(config), objective.decays, objective.layers_above
  )
  abstract = train_step.abstract_state(objective, transform, devices)
  zeros = jax.tree.map(lambda x: np.zeros(x.shape, x.dtype), abstract)
  state = jax.device_put(zeros, mesh.replicated(devices))
  last = jax.device_put((params, stats, np.int32(8)), mesh.replicated(devices))
  workdir = tmp_path / "run"
  with checkpoint.Checkpoints(workdir / "checkpoints") as saved:
    saved.save(3, state, {"position": 3}, miou=1.0)
    state = dataclasses.replace(state, params=last[0], stats=last[1], step=last[2])
    saved.save(8, state, {"position": 8}, miou=0.5)
  run_config.write(workdir, config)
  outputs = [tmp_path / "of_run", tmp_path / "of_weights"]
  source = images / "larger.v2.JPG"
  predict.predict(config, workdir, source=source, output=outputs[0])  # the latest
  predict.predict(config, workdir, source=source, output=outputs[1], weights=directory)
  labels = [read(output / "larger.v2.png") for output in outputs]
  np.testing.assert_array_equal(*labels)
  config.eval.step = checkpoint.BEST
  # What training alone depends on may differ from the run's.
  config.optimizer.name, config.optimizer.clip_norm = "adamw", 1.0
  metadata = dataset.class_metadata(config)
  architecture = build.build_architecture(config, num_classes=NUM_CLASSES)
  _, best, _ = restore.of_run(config, workdir, architecture, metadata)
  assert not np.any(best["classifier"]["kernel"])  # step 3's
  config.model.aspp_channels = 16
  with pytest.raises(ValueError, match=r"config\.model\.aspp_channels: 8 there, 16 now"):
    predict.predict(config, workdir, source=source, output=tmp_path / "none")
  assert not (tmp_path / "none").exists()


def test_weights_of_another_model_are_refused(weights, images, tmp_path):
  def refused(message, directory=weights[0], model="deeplabv3plus", **fields):
    config = small_models.mhp_v2_config(model)
    config.model.update(fields)
    with pytest.raises(ValueError, match=message):
      output = tmp_path / "out"
      predict.predict(config, "none", source=images, output=output, weights=directory)
    assert not (tmp_path / "out").exists()

  refused(r"config\.model\.decoder_channels: 8 there, 16 now", decoder_channels=16)
  refused(r"config\.model\.name: 'deeplabv3plus' there, 'mask2former' now", model="mask2former")
  config = small_models.mhp_v2_config()
  _, params, stats = weights
  small_models.write_weights(tmp_path / "few", config, (params, stats), num_classes=5)
  refused(r"classes: 5 there, 59 of config\.data\.name='mhp_v2' now", tmp_path / "few")
  small_models.write_weights(tmp_path / "backbone", config, (params, stats), contents="backbone")
  refused(r"backbone alone.*config\.init\.checkpoint", tmp_path / "backbone")
  params = {key: value for key, value in params.items() if key != "classifier"}
  params["fuse"] = params["fuse"] | {2: {"conv": {"kernel": np.zeros((1, 1, 8, 8))}}}
  low_level = {"norm": {"mean": np.zeros(9), "var": np.zeros(8)}}
  stats = stats | {"low_level": low_level}
  small_models.write_weights(tmp_path / "other", config, (params, stats))
  refused(
    r"(?s)! low_level/norm/mean: the weights have \(9,\), the model \(8,\)"
    r".*\+ fuse/2/conv/kernel.*- classifier/kernel: missing",
    tmp_path / "other",
  )


def test_what_training_alone_needs_may_differ(weights):
  config = small_models.mhp_v2_config()
  config.model.dtype, config.model.aspp_dropout, config.model.max_targets = "bfloat16", 0.5, 3
  architecture = build.build_architecture(config, num_classes=NUM_CLASSES)
  params, _ = restore.of_directory(config, weights[0], architecture)
  np.testing.assert_array_equal(params["classifier"]["kernel"], weights[1]["classifier"]["kernel"])


def test_nothing_is_written_where_something_is_missing(weights, images, tmp_path):
  config, output = small_models.mhp_v2_config(), tmp_path / "out"
  with pytest.raises(checkpoint.CheckpointError, match=r"no trained model.*--checkpoint=DIR"):
    predict.predict(config, tmp_path, source=images, output=output)
  with pytest.raises(checkpoint.CheckpointError, match=r"nowhere does not exist"):
    predict.predict(config, "none", source=images, output=output, weights=tmp_path / "nowhere")
  config.model.image_pooling, config.data.crop_size = "window", 0
  with pytest.raises(ValueError, match=r"needs config\.data\.crop_size"):
    predict.predict(config, "none", source=images, output=output, weights=weights[0])
  assert not output.exists()
  assert [epath.Path(path).name for path in images.iterdir() if path.suffix == ".npz"] == []
