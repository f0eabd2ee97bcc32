"""Every field of the config is compared with a run's, or known not to matter to its weights."""

import dataclasses

import jax
import numpy as np
import pytest
from etils import epath

from configs import common
from configs.fields import field_names
from input_pipeline import class_stats, datasets
from ltss_jax import build, checkpoint
from ltss_jax.dataset import Dataset
from ltss_jax.inference import restore
from ltss_jax.workdir import run_config

MODELS = common.CHOICES["model.name"]
TABLE = datasets.find_spec("mhp_v2_lt").class_table
FIELDS = field_names(common.get_config())

# What may change when a run goes on: it reaches neither the model nor the loss, the optimizer or
# the stream of batches, but for how many workers make the batches ready.
FREE_TO_CHANGE = {
  "compilation_cache",
  *("data.dir", "data.root", "data.ignore_label", "data.num_workers", "data.prefetch"),
  *("train.max_nonfinite_steps", "train.log_images_every_steps", "train.log_images"),
  *("train.report", "train.wandb_project", "train.profile_steps"),
  *("checkpoint.every_steps", "checkpoint.keep"),
  *(field for field in FIELDS if field.startswith(("eval.", "predict.", "export.", "mesh."))),
}
# Fields that reach a model, and change nothing of what it predicts with given weights: `eval.dtype`
# is that of predictions; recomputing and the implementations of an operation give the same numbers
# up to rounding (tested where they are); the others act in training alone.
SAME_PREDICTIONS = {
  *("model.dtype", "model.remat", "model.scan_blocks", "model.deformable_attention"),
  *("model.drop_path", "model.freeze_backbone", "model.pixel_head", "model.aspp_dropout"),
}
# Of the fields below `eval`, those that no score depends on.
NOT_SCORING = {"eval.every_steps", "eval.batch_size", "eval.save_json", "eval.step"}


SMALL = {
  **{"backbone": "resnet_small", "channels": 32, "encoder_layers": 1, "decoder_layers": 1},
  **{"aspp_channels": 8, "low_level_channels": 8, "decoder_channels": 8},
}


def config_of(model, **fields):
  """Small, and with pooling windows, through which the crop reaches DeepLabV3+."""
  config = common.get_config()
  config.model.update(SMALL)
  config.data.name, config.model.name, config.model.image_pooling = "mhp_v2_lt", model, "window"
  if model == "eomt":
    config.model.backbone, config.data.crop_size = "dinov2_mini", 32
  config.update_from_flattened_dict(fields)
  return config


def changed(model, field):
  """The config with another value of one field."""
  value = config_of(model)[field]
  if field in common.CHOICES:
    other = next(choice for choice in common.CHOICES[field] if choice != value)
  elif isinstance(value, bool):
    other = not value
  elif isinstance(value, tuple):
    other = (*value, "cuda" if field == "export.platforms" else 1)
  else:
    other = value + ("else" if isinstance(value, str) else 32)  # px, 2 cells
  return config_of(model, **{field: other})


def model_of(config):
  """The dataclass that makes the model."""
  return build.model.model_config(config, 59)


def architecture(config):
  return build.build_architecture(config, num_classes=59)


def reaches(model):
  """All fields of the config that the model's dataclass, or one inside it, depends on."""
  base = model_of(config_of(model))
  return {field for field in FIELDS if model_of(changed(model, field)) != base}


def refused(check, config, message):
  """Whether the check names what is different."""
  try:
    check(config)
  except ValueError as error:
    assert message in str(error)
    return True
  return False


def test_every_field_of_the_models_can_be_set_or_is_known_to_be_fixed():
  """The number of classes comes from the data, the dilation of res5 from the model."""
  for model, fixed in (
    ("mask2former", {"num_classes", "backbone.res5_dilation"}),
    ("deeplabv3plus", {"num_classes", "backbone.res5_dilation"}),
  ):
    leaves = run_config.flatten(dataclasses.asdict(model_of(config_of(model))))
    touched = set()
    for field in set(FIELDS) - {"model.name"}:
      other = run_config.flatten(dataclasses.asdict(model_of(changed(model, field))))
      touched |= {name for name in leaves if leaves[name] != other[name]}
    assert set(leaves) - touched == fixed, model


@pytest.mark.parametrize("model", MODELS)
def test_evaluation_compares_exactly_what_reaches_the_model(tmp_path, model):
  """Of a run: through the weights that evaluation, prediction and export load."""
  (tmp_path / "checkpoints").mkdir()
  run_config.write(tmp_path, config_of(model))

  def check(config):
    run_config.check(tmp_path, config, evaluating=True)

  compared = {f for f in FIELDS if refused(check, changed(model, f), f"config.{f}: ")}
  expected = reaches(model) - SAME_PREDICTIONS | {"data.name", "model.name"}
  assert compared == expected
  assert len(compared) > 2  # more than the data's and the model's name
  with pytest.raises(checkpoint.CheckpointError):  # the next thing, which is not there
    restore.of_run(config_of(model), tmp_path, None, TABLE.metadata)
  for field in sorted(compared):
    with pytest.raises(ValueError, match=f"holds a run of another config:\n.*config.{field}"):
      restore.of_run(changed(model, field), tmp_path, None, TABLE.metadata)


@pytest.mark.parametrize("model", MODELS)
def test_converted_weights_fit_exactly_what_reaches_the_model(tmp_path, model):
  """The data set's name is not compared: the number of classes is, and its own test has that."""
  base = config_of(model)
  info = {"num_classes": 59, "model": base.model.to_dict(), "crop_size": base.data.crop_size}
  checkpoint.save_weights(tmp_path / "weights", {"a": np.zeros(2)}, {}, info)

  built = architecture(base)

  def check(config):
    run_config.check_weights("weights", info, config, 59)
    run_config.check_crop("weights", info, config)

  compared = {f for f in FIELDS if refused(check, changed(model, f), f"config.{f}")}
  assert compared == reaches(model) - SAME_PREDICTIONS | {"model.name"}
  for field in sorted(compared):
    with pytest.raises(ValueError, match=rf"weights in .*(\n.*)*config\.{field}"):
      restore.of_directory(changed(model, field), tmp_path / "weights", built)
  with pytest.raises(ValueError, match="do not fit config"):  # only the leaves are wrong
    restore.of_directory(base, tmp_path / "weights", built)


def test_weights_of_older_conversions_say_nothing_of_the_crop():
  config = config_of("deeplabv3plus")
  for info in ({}, {"crop_size": 0}, {"crop_size": 512}):
    run_config.check_crop("weights", info, config)
  with pytest.raises(ValueError, match=r"crops of 640 px, .* 512; set --config.data.crop_size=640"):
    run_config.check_crop("weights", {"crop_size": 640}, config)


@pytest.mark.parametrize("model", MODELS)
def test_what_training_alone_uses_does_not_reach_predictions(model):
  """The traced program is the same, letter by letter."""

  def program(**fields):
    built = architecture(config_of(model, **fields))
    variables = jax.eval_shape(built.init, jax.random.key(0))
    image = jax.ShapeDtypeStruct((1, 32, 32, 3), np.float32)
    return str(jax.make_jaxpr(built.predict)(*variables, image))

  base = program()
  same = {"model.dtype": "float32", "model.drop_path": 0.7, "model.aspp_dropout": 0.7}
  assert config_of(model).model.dtype != "float32"
  assert program(**same, **{"model.max_targets": 3}) == base
  assert program(**{"eval.dtype": "bfloat16"}) != base


def test_every_other_field_stays_when_a_run_goes_on(tmp_path):
  for model in MODELS:
    run_config.write(tmp_path, config_of(model))

    def check(config):
      run_config.check(tmp_path, config)

    compared = {f for f in FIELDS if refused(check, changed(model, f), f"config.{f}: ")}
    assert compared == set(FIELDS) - FREE_TO_CHANGE


@pytest.mark.parametrize("model", MODELS)
def test_what_may_change_does_not_reach_the_training(model):
  counts = class_stats.PixelCounts.from_rows([(10, 10)], [(np.array([0]), np.array([10]))])
  dataset = Dataset(TABLE.metadata, epath.Path("nowhere"), counts, counts, TABLE.train_stats)

  def training(config):
    stream = build.train_pipeline_config(config, dataset, max_targets=5)
    stream = dataclasses.replace(stream, num_workers=0, prefetch=1)
    return model_of(config), build.optimizer_config(config), stream

  for field in sorted(FREE_TO_CHANGE):
    assert training(changed(model, field)) == training(config_of(model)), field


def test_scores_depend_on_every_other_field_of_the_evaluation():
  for field in (f for f in FIELDS if f.startswith("eval.")):
    before, after = (
      run_config.scoring_fields(config.eval.to_dict())
      for config in (config_of("mask2former"), changed("mask2former", field))
    )
    assert (before == after) == (field in NOT_SCORING), field
