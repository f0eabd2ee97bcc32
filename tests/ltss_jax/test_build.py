"""Every field of `config.data` reaches the training stream."""

import jax
import numpy as np
import pytest
from etils import epath

from configs import common, mhp_v2_lt
from input_pipeline import class_stats, class_tables, pipeline, repeat_factor
from ltss_jax import build, mesh as mesh_lib
from ltss_jax.dataset import Dataset

TABLE = class_tables.load_class_table("mhp_v2_lt")
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


def built(dataset=DATASET, **fields) -> pipeline.TrainPipelineConfig:
  config = mhp_v2_lt.get_config()
  config.update_from_flattened_dict({f"data.{name}": value for name, value in fields.items()})
  common.validate(config)
  return build.train_pipeline_config(config, dataset, max_targets=5)


def test_defaults_sample_uniformly_and_paste_nothing():
  config = built()
  assert config.repeat_factors is None and config.source_weights is None
  assert config.copy_paste is None
  assert not config.exact_pixels
  assert (config.crop_size, config.max_size, config.max_targets) == (512, 1333, 5)
  assert built(exact_pixels=True).exact_pixels


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


def test_inference_needs_no_statistics_and_has_the_state_of_training():
  for class_loss, has_counts in (("seesaw", True), ("balanced_softmax", False)):
    config = mhp_v2_lt.get_config("model=deeplabv3plus")
    config.loss.class_loss = class_loss
    architecture = build.build_architecture(
      config, num_classes=59, ignore_label=255, mesh=mesh_lib.data_mesh(), training=False
    )
    _, stats = jax.eval_shape(lambda init=architecture.init: init(jax.random.key(0)))
    assert ("seesaw_counts" in stats) == has_counts
    with pytest.raises(ValueError, match="training=False"):
      architecture.loss(None, None, None, None)


@pytest.mark.parametrize(
  ("field", "value"), [("loss.frequency_matcher", True), ("eval.logit_adjustment", 1.0)]
)
def test_methods_that_need_statistics_say_so(field, value):
  config = mhp_v2_lt.get_config()
  config.update_from_flattened_dict({field: value})
  with pytest.raises(ValueError, match=f"config.{field}.*needs the class statistics"):
    build.build_architecture(
      config, num_classes=59, ignore_label=255, mesh=mesh_lib.data_mesh(), train_stats=None
    )
