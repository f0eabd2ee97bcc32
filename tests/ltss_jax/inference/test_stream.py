"""The stream of predictions: order, sizes, dummies, and how far the device is ahead."""

import jax
import numpy as np
import pytest

from input_pipeline import inference_batches, resize
from input_pipeline.inference_batches import InferenceBatch, SizedImage
from ltss_jax import architectures, mesh as mesh_lib
from ltss_jax.inference import stream
from ltss_jax.inference.predictor import Predictor

RNG = np.random.default_rng(0)


@pytest.fixture(name="predictor", scope="module")
def _predictor():
  """A model whose three classes are the colours."""
  architecture = architectures.Architecture(
    num_classes=3,
    init=None,
    predict=lambda params, stats, image: image,
    score_blocks=lambda image, size: (
      lambda start, count: jax.lax.dynamic_slice_in_dim(image, start, count, axis=-1)
    ),
  )
  return Predictor(architecture, mesh_lib.data_mesh(jax.devices()[:1]))


def batch_of(shape, rows):
  """A batch of random images; rows are (size, input size, name) or None."""
  image = np.zeros((len(rows), *shape, 3), np.uint8)
  for pixels, row in zip(image, rows, strict=True):
    if row is not None:
      height, width = row[1]
      pixels[:height, :width] = RNG.integers(0, 256, (height, width, 3))
  return InferenceBatch(image, [row and SizedImage(*row) for row in rows])


def expected_scores(pixels, size):
  """Float32 [C, H, W] of pixels [h, w, 3]."""
  scores = architectures.normalize(pixels)
  scores = jax.image.resize(scores, (*size, 3), "bilinear", antialias=False)
  return np.asarray(scores).transpose(2, 0, 1)


def batches():
  return [
    batch_of((6, 8), [((6, 8), (6, 8), "a"), None]),
    batch_of((6, 8), [((12, 16), (6, 8), "b"), None, ((3, 4), (5, 7), "c")]),
    batch_of((4, 4), [((9, 9), (4, 4), "d")]),
  ]


@pytest.mark.parametrize("with_scores", [False, True])
def test_every_image_comes_in_order_at_its_own_size(predictor, with_scores):
  given = batches()
  results = list(stream.predictions(predictor, {}, {}, given, with_scores=with_scores))
  assert [one.image for one in results] == ["a", "b", "c", "d"]
  rows = [(batch, i) for batch in given for i, row in enumerate(batch.rows) if row]
  for one, (batch, i) in zip(results, rows, strict=True):
    (height, width), size = batch.rows[i].input_size, batch.rows[i].size
    np.testing.assert_array_equal(one.model_input, batch.image[i, :height, :width])
    expected = expected_scores(one.model_input, size)
    assert one.label_map.shape == size
    # Two blends in another order: no pixel of these is so close to a tie.
    np.testing.assert_array_equal(one.label_map, expected.argmax(0))
    if with_scores:
      # Float32 round-off of two blends of values up to 3.
      np.testing.assert_allclose(one.scores, expected, atol=1e-5)
    else:
      assert one.scores is None


def test_dummies_add_no_compiled_shape(predictor):
  whole = batch_of((7, 9), [((7, 9), (7, 9), "a"), ((7, 9), (7, 9), "b")])
  short = batch_of((7, 9), [((7, 9), (7, 9), "c"), None])
  small = batch_of((300, 9), [((7, 9), (300, 9), "d"), None])
  before = predictor.num_compilations
  list(stream.predictions(predictor, {}, {}, [whole, short]))
  assert predictor.num_compilations == before + 1
  # Labels of the input's size are not resized, neither are those beside a dummy.
  assert predictor({}, {}, short.image, [(7, 9)] * 2).shape == (2, 7, 9)
  assert predictor.num_compilations == before + 1
  list(stream.predictions(predictor, {}, {}, [small], with_scores=True))
  predictor.scores({}, {}, small.image, [(7, 9)] * 2)
  assert predictor.num_compilations == before + 2


@pytest.mark.parametrize(("with_scores", "drawn"), [(False, 2), (True, 1)])
def test_the_device_has_the_next_batch_before_the_last_is_handed_out(predictor, with_scores, drawn):
  given = iter(batches())
  next(stream.predictions(predictor, {}, {}, given, with_scores=with_scores))
  assert len(list(given)) == 3 - drawn


def test_a_single_image_goes_the_same_way(predictor):
  image = RNG.integers(0, 256, (20, 30, 3), dtype=np.uint8)
  [one] = stream.predictions(
    predictor, {}, {}, [inference_batches.single_batch(image, 10, 99)], with_scores=True
  )
  assert one.image is image
  np.testing.assert_array_equal(one.model_input, resize.resize_image(image, 10, 15))
  np.testing.assert_array_equal(one.label_map, one.scores.argmax(0))
  assert one.label_map.shape == (20, 30)
