"""Every field of `config.data` reaches the stream, those of the methods the loss and inference."""

import dataclasses

import jax
import numpy as np
import pytest
from etils import epath

from configs import ade20k_full, coco_stuff_lt, common, mhp_v2_lt, shapes_lt
from input_pipeline import class_stats, datasets, pipeline, repeat_factor
from ltss_jax import build, mesh as mesh_lib
from ltss_jax.build.fields import fields_of
from ltss_jax.dataset import Dataset
from ltss_jax.losses import class_losses

TABLE = datasets.find_spec("mhp_v2_lt").class_table
# Three images; class 51 of MHP-v2-LT is rare.
COUNTS = class_stats.PixelCounts.from_rows(
  [(10, 10)] * 3,
  [
    (np.array([0]), np.array([10])),
    (np.array([0, 51]), np.array([10, 5])),
    (np.array([], np.int32), np.array([], np.int64)),
  ],
)
DATASET = Dataset(TABLE.metadata, epath.Path("nowhere"), COUNTS, COUNTS, TABLE.train_stats)
FREQUENCY = TABLE.train_stats.images_with_class / 6931


def test_fields_of_a_dataclass_are_taken_by_name():
  @dataclasses.dataclass
  class Paste:
    classes: tuple
    flip: bool

  data = mhp_v2_lt.get_config().data
  data.flip, data.copy_paste_flip, data.copy_paste_classes = True, False, (3,)
  assert fields_of(Paste, data) == {"flip": True}
  assert fields_of(Paste, data, "copy_paste_") == {"flip": False, "classes": (3,)}
  assert Paste(**fields_of(Paste, data, "copy_paste_")) == Paste((3,), False)


def built(dataset=DATASET, **fields) -> pipeline.TrainPipelineConfig:
  config = mhp_v2_lt.get_config()
  config.update_from_flattened_dict({f"data.{name}": value for name, value in fields.items()})
  common.validate(config)
  return build.train_pipeline_config(config, dataset, max_targets=5)


def test_defaults_sample_uniformly_and_paste_nothing():
  config = built()
  assert config.repeat_factors is None and config.source_weights is None
  assert config.copy_paste is None
  augmentation = config.augmentation
  assert not augmentation.exact_pixels
  assert (augmentation.crop_size, augmentation.max_size, config.max_targets) == (512, 1333, 5)
  assert (augmentation.ignore_label, augmentation.flip_pairs) == (255, TABLE.metadata.flip_pairs)
  assert built(exact_pixels=True).augmentation.exact_pixels


def test_repeat_factors_with_the_published_threshold():
  rare = np.sqrt(0.0012 / FREQUENCY[51])
  assert rare > 1
  factors = built(sampler="repeat_factor").repeat_factors
  np.testing.assert_allclose(factors, [1, rare, 1])
  factors = built(sampler="repeat_factor", repeat_reduce="sum").repeat_factors
  np.testing.assert_allclose(factors, [1, 1 + rare, 1])
  factors = built(sampler="repeat_factor", repeat_threshold=0.01).repeat_factors
  np.testing.assert_allclose(factors, [1, np.sqrt(0.01 / FREQUENCY[51]), 1])


def test_repeat_factors_at_pixel_level():
  stats = TABLE.train_stats
  frequency = repeat_factor.class_frequency(stats, "pixel")
  threshold = class_stats.frequency_threshold(stats.pixel_share_sum, 6931)
  expected = np.maximum(1, np.sqrt(threshold / frequency[[0, 51]]))
  factors = built(sampler="repeat_factor", repeat_level="pixel", repeat_reduce="mean")
  np.testing.assert_allclose(factors.repeat_factors, [expected[0], expected.mean(), 1])


def test_copy_paste_gets_the_rare_group_and_the_flip_pairs():
  options = {"copy_paste_flip": True, "copy_paste_min_scale": 0.5, "copy_paste_max_scale": 2.0}
  paste = built(copy_paste="rare", copy_paste_classes=(3, 51), **options).copy_paste
  assert paste.mode == "rare"
  assert len(paste.rare_classes) == 11 and 51 in paste.rare_classes
  assert paste.classes == (3, 51) and paste.flip
  assert paste.flip_pairs == TABLE.metadata.flip_pairs
  assert paste.ignore_label == 255
  assert (paste.min_scale, paste.max_scale) == (0.5, 2.0)


def test_sources_by_repeat_factor_with_uniform_destinations():
  config = built(copy_paste="random", copy_paste_repeat_factor=True)
  assert config.repeat_factors is None
  np.testing.assert_allclose(config.source_weights, [1, np.sqrt(0.0012 / FREQUENCY[51]), 1])


def test_classes_that_the_data_set_lacks():
  with pytest.raises(
    ValueError, match=r"copy_paste_classes holds 59, but mhp_v2_lt has .* 0 to 58"
  ):
    built(copy_paste="random", copy_paste_classes=(3, 59))


def test_inference_needs_no_statistics_and_has_no_state_of_the_loss():
  for class_loss in ("seesaw", "balanced_softmax"):
    config = mhp_v2_lt.get_config("model=deeplabv3plus")
    config.loss.class_loss = class_loss
    architecture = build.build_architecture(config, num_classes=59)
    _, stats = jax.eval_shape(lambda init=architecture.init: init(jax.random.key(0)))
    assert "seesaw_counts" not in stats


def objective(config, num_classes=59, stats=None):
  mesh = mesh_lib.data_mesh(jax.devices()[:1])
  return build.build_objective(
    config, num_classes=num_classes, ignore_label=255, mesh=mesh, train_stats=stats
  )


def test_methods_that_need_statistics_say_so():
  config = mhp_v2_lt.get_config()
  config.eval.logit_adjustment = 1.0
  with pytest.raises(ValueError, match="config.eval.logit_adjustment.*needs the class statistics"):
    build.build_architecture(config, num_classes=59)
  config.loss.frequency_matcher = True
  with pytest.raises(ValueError, match="config.loss.frequency_matcher.*needs the class statistics"):
    objective(config)
  config.loss.class_loss = "balanced_softmax"
  with pytest.raises(ValueError, match="class_loss 'balanced_softmax' needs the class counts"):
    objective(config)


@pytest.mark.parametrize("model", ["mask2former", "deeplabv3plus"])
def test_training_may_compute_in_bfloat16_while_prediction_does_not(model):
  config = shapes_config(model, {"model.dtype": "bfloat16"})
  training, architecture = objective(config, 5), build.build_architecture(config, num_classes=5)
  weights = jax.eval_shape(architecture.init, jax.random.key(0))
  batch = {
    "image": np.zeros((2, 64, 64, 3), np.float32),
    "label": np.zeros((2, 64, 64), np.uint8),
    "classes": np.zeros((2, 16), np.int32),
    "dropped_classes": np.zeros(2, np.int32),
  }
  assert "bf16" in str(jax.make_jaxpr(training.loss)(*weights, batch, jax.random.key(0), 0))
  assert "bf16" not in str(jax.make_jaxpr(architecture.predict)(*weights, batch["image"]))


CONFIGS = {"ade20k_full": ade20k_full, "coco_stuff_lt": coco_stuff_lt, "mhp_v2_lt": mhp_v2_lt}


def queries_per_class(name, **fields):
  """(numbers through the config, training images with the class and their fraction)."""
  config, stats = CONFIGS[name].get_config(), datasets.find_spec(name).official_stats
  config.loss.update({"frequency_matcher": True} | fields)
  numbers = np.array(build.losses.queries_per_class(config, stats))
  return numbers, stats.images_with_class / stats.num_images


@pytest.mark.parametrize(
  ("name", "above_one", "largest"),
  [("ade20k_full", 475, 6), ("coco_stuff_lt", 75, 10), ("mhp_v2_lt", 27, 9)],
)
def test_queries_per_class_of_the_published_tables(name, above_one, largest):
  numbers, frequency = queries_per_class(name)
  assert (np.sum(numbers > 1), numbers.max()) == (above_one, largest)
  if name == "ade20k_full":
    assert np.bincount(numbers).tolist() == [0, 372, 268, 99, 72, 0, 36]
  for fields in ({"query_threshold": 0.01}, {"query_scale": 3.0}):
    threshold = {"ade20k_full": 0.0003, "coco_stuff_lt": 0.0012, "mhp_v2_lt": 0.0024}[name]
    t, s = fields.get("query_threshold", threshold), fields.get("query_scale", 2.0)
    changed, _ = queries_per_class(name, **fields)
    assert changed.tolist() == [int(np.ceil(max(1, s * np.sqrt(t / f)))) for f in frequency]
    assert np.any(changed != numbers)


# Five classes whose order by pixels is another one than by images.
STATS = class_stats.ClassStats(
  100, np.array([100, 50, 9, 4, 1]), np.array([3.0, 40.0, 0.5, 20.0, 1.5])
)
LOGITS = np.array([1.0, -0.5, 0.3, 2.0, -1.2])


def shapes_config(model, fields):
  config = shapes_lt.get_config(f"model={model}")
  config.update_from_flattened_dict(fields)
  return config


@pytest.mark.parametrize(
  ("fields", "expected"),
  [
    # Ascending 1 4 9 50 100: a = v[1] = 4, and t = 4 / 100; 2 sqrt(t / f) = 0.4 0.57 1.3 2 4.
    ({}, (1, 1, 2, 2, 4)),
    ({"loss.query_threshold": 0.16}, (1, 2, 3, 4, 8)),
    ({"loss.query_threshold": 0.16, "loss.query_scale": 1.0}, (1, 1, 2, 2, 4)),
    ({"loss.query_scale": 4.0}, (1, 2, 3, 4, 8)),
    ({"loss.frequency_matcher": False}, None),
  ],
)
def test_queries_per_class_without_a_published_threshold(fields, expected):
  config = shapes_config("mask2former", {"loss.frequency_matcher": True} | fields)
  assert build.losses.queries_per_class(config, STATS) == expected


@pytest.mark.parametrize(
  ("model", "counts"),
  [("mask2former", STATS.images_with_class), ("deeplabv3plus", STATS.pixel_share_sum)],
)
@pytest.mark.parametrize("name", class_losses.CLASS_LOSSES)
def test_fields_of_the_class_losses_arrive_with_the_right_counts(name, model, counts):
  statistics = {"train_images": STATS.images_with_class, "prior_counts": counts}
  fields = [field.name for field in dataclasses.fields(class_losses.CLASS_LOSSES[name])]
  # No default of a loss's parameters.
  parameters = {field: 0.3 + 0.1 * i for i, field in enumerate(fields) if field not in statistics}
  chosen = {f"loss.{field}": value for field, value in parameters.items()}
  loss = build.class_loss(shapes_config(model, chosen | {"loss.class_loss": name}), STATS)
  assert loss.name == name
  for field in fields:
    np.testing.assert_array_equal(getattr(loss, field), (parameters | statistics)[field])


def with_fixed_logits(config, path, logits):
  """(config, weights that are all 0, but for the bias which makes all the class logits)."""
  architecture = build.build_architecture(config, num_classes=5, train_stats=STATS)
  shapes = jax.eval_shape(architecture.init, jax.random.key(0))
  params, stats = jax.tree.map(lambda x: np.zeros(x.shape, x.dtype), shapes)
  layer = params
  for part in path:
    layer = layer[part]
  assert layer["bias"].shape == logits.shape
  layer["bias"][:] = logits
  return config, params, stats


def loss_and_prediction(config, params, stats, batch):
  training = objective(config, 5, STATS)
  architecture = build.build_architecture(config, num_classes=5, train_stats=STATS)

  def both(params, stats, batch):
    _, (_, terms) = training.loss(params, stats, batch, jax.random.key(0), 0)
    return terms, architecture.predict(params, stats, batch["image"])

  return jax.jit(both)(params, stats, batch)


METHODS = {
  "loss.class_loss": "logit_adjustment",
  "loss.logit_adjustment_tau": 1.5,
  "eval.logit_adjustment": 0.5,
  "model.dtype": "float32",
}


def test_methods_of_deeplabv3plus_by_hand():
  fields = {
    "loss.hard_pixel_fraction": 1.0,
    "model.aspp_channels": 8,
    "model.low_level_channels": 8,
    "model.decoder_channels": 8,
    "model.aspp_dilations": (1,),
  }
  config = shapes_config("deeplabv3plus", METHODS | fields)
  model = with_fixed_logits(config, ["classifier"], LOGITS)
  label = np.random.default_rng(0).integers(0, 5, (2, 16, 16))
  batch = {"image": np.zeros((2, 16, 16, 3), np.float32), "label": label.astype(np.uint8)}
  terms, prediction = loss_and_prediction(*model, batch)
  counts = STATS.pixel_share_sum
  shifted = LOGITS + 1.5 * np.log(counts / counts.sum())
  expected = np.log(np.exp(shifted).sum()) - shifted[label.ravel()]
  np.testing.assert_allclose(terms["loss"], np.mean(expected), rtol=1e-5)  # float32
  # Classes of average frequency keep their logits.
  adjusted = LOGITS - 0.5 * np.log(5 * counts / counts.sum())
  np.testing.assert_allclose(prediction, np.broadcast_to(adjusted, prediction.shape), rtol=1e-5)


def test_methods_of_mask2former_by_hand():
  """All queries have the same class logits: only how many are matched with a class counts."""
  fields = {
    "loss.frequency_matcher": True,  # 1, 1, 2, 2 and 4 queries, see above
    "loss.no_object_weight": 0.2,
    "loss.num_points": 16,
    "model.channels": 32,
    "model.encoder_width": 16,
    "model.decoder_width": 16,
    "model.num_queries": 12,
    "model.encoder_layers": 1,
    "model.decoder_layers": 1,
    "model.num_heads": 1,
    "model.max_targets": 5,
  }
  config = shapes_config("mask2former", METHODS | fields)
  model = with_fixed_logits(config, ["transformer_decoder", "class_embed"], np.append(LOGITS, 0.7))
  label = np.zeros((2, 32, 32), np.uint8)
  label[0] = np.arange(32) % 5
  label[1, :9] = 4
  batch = {
    "image": np.zeros((2, 32, 32, 3), np.float32),
    "label": label,
    "classes": np.array([[0, 1, 2, 3, 4], [0, 4, -1, -1, -1]], np.int32),
    "dropped_classes": np.zeros(2, np.int32),
  }
  terms, prediction = loss_and_prediction(*model, batch)
  prior = np.append(np.log(5 * STATS.images_with_class / STATS.images_with_class.sum()), 0)
  shifted = np.append(LOGITS, 0.7) + 1.5 * prior
  values = np.log(np.exp(shifted).sum()) - shifted
  queries = np.array([2, 1, 2, 2, 8, 9]) * [1, 1, 1, 1, 1, 0.2]
  expected = 2 * config.loss.class_weight * np.dot(queries, values) / queries.sum()  # 2 predictions
  np.testing.assert_allclose(terms["loss_class"], expected, rtol=1e-5)  # float32
  scores = np.exp(np.append(LOGITS, 0.7) - 0.5 * prior)
  scores = (scores / scores.sum())[:5]
  prediction = prediction["class_scores"]
  np.testing.assert_allclose(prediction, np.broadcast_to(scores, prediction.shape), rtol=1e-5)
