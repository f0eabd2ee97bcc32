"""Evaluation counts on real records of several sizes, for several devices and batch sizes."""

import dataclasses

import cv2
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from PIL import Image

from configs import shapes_lt
from input_pipeline import inference_batches, resize, validation_batches
from ltss_jax import architectures, build, mesh as mesh_lib
from ltss_jax.evaluation import confusion
from ltss_jax.inference import score_maps, sliding_window, stream, test_time_augmentation
from ltss_jax.inference.predictor import Predictor
from tests import square_model

NUM_CLASSES = 4
SIZES = [(20, 30), (24, 24), (20, 30), (31, 17), (20, 30), (24, 24), (20, 30)]


def colour_architecture():
  """Scores a pixel's classes by fixed random weights of its colour: a model without rounding."""

  def predict(params, stats, image):
    return image @ params["weights"] + stats["bias"]

  def score_blocks(scores, size):
    assert scores.shape[:2] == size
    return lambda start, count: jax.lax.dynamic_slice_in_dim(scores, start, count, axis=-1)

  return architectures.Architecture(NUM_CLASSES, None, predict, score_blocks)


@pytest.fixture(scope="module")
def source():
  """Lossless records in memory, as random access gives them."""
  rng = np.random.default_rng(0)
  records = []
  for i, size in enumerate(SIZES):
    image = rng.integers(0, 256, (*size, 3), dtype=np.uint8)
    label = rng.integers(0, NUM_CLASSES, size, dtype=np.uint8)
    label[rng.random(size) < 0.1] = 255
    encode = lambda x: cv2.imencode(".png", x)[1].tobytes()  # noqa: E731
    records.append(
      {"image": encode(image[..., ::-1]), "label": encode(label), "file_name": f"{i}.png"}
    )
  return records


@pytest.fixture(scope="module")
def variables():
  rng = np.random.default_rng(1)
  weights = rng.normal(size=(3, NUM_CLASSES)).astype(np.float32)
  return {"weights": jnp.array(weights)}, {"bias": jnp.array([0.1, 0, -0.1, 0])}


def counts(
  source,
  variables,
  *,
  architecture=None,
  devices=1,
  batch_size=4,
  min_size=0,
  parts=1,
  multiple=1,
  window=0,
  **options,
):
  """Sum over `parts` processes, one after the other, of what each of them counts."""
  mesh = mesh_lib.data_mesh(jax.devices()[:devices])
  architecture = architecture or colour_architecture()
  if window:
    starts = sliding_window.strided(window, window - 3)
    architecture = sliding_window.over_windows(architecture, window, starts)
  options = dataclasses.replace(
    test_time_augmentation.NO_AUGMENTATION, max_size=64, shape_multiple=multiple, **options
  )
  predictor = Predictor(architecture, mesh, options)
  replicated = jax.device_put(variables, mesh_lib.replicated(mesh))
  height, width = (np.array(side) for side in zip(*SIZES, strict=True))
  total = 0
  for part in range(parts):
    batches = validation_batches.ValidationBatches(
      source,
      (height, width),
      batch_size=batch_size,
      min_size=min_size,
      max_size=64,
      process_index=part,
      process_count=parts,
      shape_multiple=multiple,
    )
    total += confusion.confusion_matrix(
      predictor, *replicated, batches, num_classes=NUM_CLASSES, ignore_label=255
    )
  return total, predictor.num_compilations


def decoded(source):
  for record in source:
    image, label = (
      cv2.imdecode(np.frombuffer(record[k], np.uint8), cv2.IMREAD_UNCHANGED)
      for k in ("image", "label")
    )
    yield image[..., ::-1], label


def test_counts_are_those_of_a_plain_loop(source, variables):
  expected = np.zeros((NUM_CLASSES, NUM_CLASSES), np.int64)
  for image, label in decoded(source):
    scores = architectures.normalize(image) @ variables[0]["weights"] + variables[1]["bias"]
    prediction = np.argmax(scores, -1)
    for y, x in np.argwhere(label != 255):
      expected[label[y, x], prediction[y, x]] += 1
  result, compilations = counts(source, variables)
  np.testing.assert_array_equal(result, expected)
  assert result.dtype == np.int64
  assert compilations == 3  # distinct sizes


@pytest.mark.parametrize("min_size", [0, 40])
def test_counts_do_not_depend_on_devices_processes_or_batches(source, variables, min_size):
  expected, _ = counts(source, variables, min_size=min_size)
  labelled = sum((label != 255).sum() for _, label in decoded(source))
  assert expected.sum() == labelled
  for options in (
    {"devices": 4, "batch_size": 4},
    {"devices": 2, "batch_size": 8, "parts": 2},
    {"devices": 1, "batch_size": 3, "parts": 3},
    {"devices": 1, "batch_size": 1},
  ):
    result, _ = counts(source, variables, min_size=min_size, **options)
    np.testing.assert_array_equal(result, expected)


@pytest.mark.slow
@pytest.mark.parametrize("model", ["deeplabv3plus", "mask2former"])
def test_a_network_counts_the_same_however_it_is_spread(source, model):
  """Real networks round; labels depend on it only where two classes are all but equal."""
  architecture = build.build_architecture(
    shapes_lt.get_config(f"model={model}"), num_classes=NUM_CLASSES
  )
  variables = architecture.init(jax.random.key(0))
  options = {"architecture": architecture, "min_size": 48}
  expected, _ = counts(source, variables, batch_size=1, **options)
  assert np.count_nonzero(expected.sum(0)) > 1  # it predicts more than one class
  for spread in (
    {"batch_size": 2},
    {"batch_size": 5},
    {"devices": 4, "batch_size": 8},
    {"devices": 2, "batch_size": 4, "parts": 2},
    {"batch_size": 2, "scales": (48,)},
  ):
    result, _ = counts(source, variables, **spread, **options)
    np.testing.assert_array_equal(result, expected)


def test_one_scale_without_flip_is_the_plain_evaluation(source, variables):
  expected, _ = counts(source, variables, min_size=40)
  result, _ = counts(source, variables, min_size=40, scales=(40,))
  np.testing.assert_array_equal(result, expected)


@pytest.mark.parametrize(
  "options",
  [
    {"scales": (24, 40), "flip": True, "flip_pairs": ((0, 2),)},
    {"min_size": 40, "multiple": 16},
    {"min_size": 40, "window": 21},
    {"scales": (24, 30), "multiple": 16, "flip": True},
  ],
)
def test_counts_with_views_do_not_depend_on_devices_processes_or_batches(
  source, variables, options
):
  expected, _ = counts(source, variables, batch_size=1, **options)
  assert expected.sum() == sum((label != 255).sum() for _, label in decoded(source))
  result, _ = counts(source, variables, devices=2, batch_size=8, parts=2, **options)
  np.testing.assert_array_equal(result, expected)


def test_a_model_of_single_pixels_sees_no_windows_and_no_padding(source, variables):
  expected, shapes = counts(source, variables, min_size=40)
  windowed, _ = counts(source, variables, min_size=40, window=21)
  rounded, fewer_shapes = counts(source, variables, min_size=40, multiple=64)
  assert shapes == 3 and fewer_shapes == 1
  np.testing.assert_array_equal(rounded, expected)
  # A mean of up to four equal scores is rounded: no pixel is so close to a tie here.
  np.testing.assert_array_equal(windowed, expected)


def test_scores_are_means_over_scales_and_mirrored_images(source, variables):
  options = dataclasses.replace(
    test_time_augmentation.NO_AUGMENTATION,
    scales=(20, 40),
    max_size=64,
    flip=True,
    flip_pairs=((1, 3),),
  )
  mesh = mesh_lib.data_mesh(jax.devices()[:1])
  predictor = Predictor(colour_architecture(), mesh, options)
  (image, _), *_ = decoded(source)
  size, expected = (45, 71, NUM_CLASSES), []
  for height, width in ((20, 30), (40, 60)):
    scaled = resize.resize_image(np.ascontiguousarray(image), height, width)
    for view in (scaled, scaled[:, ::-1]):
      scores = architectures.normalize(view) @ variables[0]["weights"] + variables[1]["bias"]
      scores = jax.image.resize(scores, size, "bilinear", antialias=False)
      expected.append(scores if view is scaled else scores[:, ::-1, [0, 3, 2, 1]])
  expected = np.mean(expected, 0)
  (result,) = predictor.scores(*variables, image[None], [size[:2]])
  # Float32 round-off of sums of four blends of values up to 3.
  np.testing.assert_allclose(result.transpose(1, 2, 0), expected, atol=1e-5)
  label = np.asarray(predictor(*variables, image[None], [size[:2]]))[0, :45, :71]
  # Of classes 1 and 3, which swap, the mean is the same but for round-off: either may win.
  chosen = np.take_along_axis(expected, label[..., None].astype(int), -1)[..., 0]
  np.testing.assert_allclose(chosen, expected.max(-1), atol=1e-5)


def test_labels_are_predicted_at_their_own_size(source, variables):
  mesh = mesh_lib.data_mesh(jax.devices()[:1])
  predictor = Predictor(colour_architecture(), mesh)
  (image, _), *_ = decoded(source)
  resized = predictor(*variables, image[None], [(45, 71)])[0, :45, :71]
  scores = architectures.normalize(image) @ variables[0]["weights"] + variables[1]["bias"]
  judge = jax.image.resize(scores, (45, 71, NUM_CLASSES), "bilinear", antialias=False).argmax(-1)
  np.testing.assert_array_equal(resized, judge)


@pytest.mark.parametrize("block_values", [1 << 26, 45 * 71 * 3])
def test_scores_are_those_that_the_labels_maximise(source, variables, monkeypatch, block_values):
  monkeypatch.setattr(score_maps, "_BLOCK_VALUES", block_values)
  predictor = Predictor(colour_architecture(), mesh_lib.data_mesh(jax.devices()[:2]))
  image = np.stack([image for image, label in decoded(source) if label.shape == (20, 30)][:2])
  sizes = [(20, 30), (45, 71)]
  results = predictor.scores(*variables, image, sizes)
  labels = predictor(*variables, image, sizes)
  for i, (height, width) in enumerate(sizes):
    assert results[i].shape == (NUM_CLASSES, height, width) and results[i].dtype == np.float32
    scores = architectures.normalize(image[i]) @ variables[0]["weights"] + variables[1]["bias"]
    shape = (height, width, NUM_CLASSES)
    judge = jax.image.resize(scores, shape, "bilinear", antialias=False)
    # Float32 round-off of two blends of values up to 3.
    np.testing.assert_allclose(results[i].transpose(1, 2, 0), judge, atol=1e-5)
    np.testing.assert_array_equal(results[i].argmax(0), labels[i, :height, :width])


def test_sums_of_one_process_are_its_own_counts():
  counts = np.full((2, 2), 1 << 40)
  np.testing.assert_array_equal(mesh_lib.sum_over_processes(counts), counts)


def test_the_only_process_gathers_what_it_has():
  assert mesh_lib.gather_bytes(b"abc") == [b"abc"]


def photograph(height, width):
  """Coloured patches, so that classes are of regions."""
  small = np.random.default_rng(height).integers(0, 256, (7, 9, 3), dtype=np.uint8)
  return resize.resize_image(small, height, width)


def released_input(image, side):
  """The image scaled as EoMT's release does it, from its formula."""
  height, width = image.shape[:2]
  factor = max(side / height, side / width)
  size = round(width * factor), round(height * factor)
  return np.asarray(Image.fromarray(image).resize(size, Image.Resampling.BILINEAR))


def check_labels(labels, scores):
  """Labels are those of the largest scores, except where two are equal but for rounding."""
  chosen = np.take_along_axis(scores, labels[..., None].astype(int), -1)[..., 0]
  np.testing.assert_allclose(chosen, scores.max(-1), atol=2e-5)
  assert (labels == scores.argmax(-1)).mean() > 0.999 and len(np.unique(labels)) > 2


SQUARE = {"params": square_model.WEIGHTS, "stats": {}}


@pytest.mark.parametrize("size", [(97, 131), (131, 97), (70, 300), (128, 128)])
def test_a_model_of_squares_sees_an_image_as_eomts_release_shows_it(size):
  image = photograph(*size)
  batch = inference_batches.single_batch(image, square_model.SIDE, 4096, half_even=True)
  predictor = Predictor(square_model.architecture(), mesh_lib.data_mesh(jax.devices()[:1]))
  (one,) = stream.predictions(predictor, *SQUARE.values(), [batch])
  expected = square_model.bilinear(square_model.scores(released_input(image, 128)), *size)
  check_labels(one.label_map, expected)
  (scores,) = predictor.scores(**SQUARE, image=batch.image, sizes=[size])
  # Float32 sums of four windows at most, and blends of them, against float64.
  np.testing.assert_allclose(scores.transpose(1, 2, 0), expected, atol=2e-5)


def test_a_model_of_squares_sees_native_sizes_and_other_scales():
  """Smaller than a window, and several windows on both axes; batches of two on two devices."""
  images = np.stack([photograph(97, 131), photograph(97, 131)[:, ::-1]])
  mesh, sizes = mesh_lib.data_mesh(jax.devices()[:2]), [(97, 131), (60, 200)]
  native = Predictor(square_model.architecture(), mesh)(**SQUARE, image=images, sizes=sizes)
  options = dataclasses.replace(
    test_time_augmentation.NO_AUGMENTATION, scales=(40, 290), max_size=400, flip=True
  )
  predictor = Predictor(square_model.architecture(), mesh, options)
  labels = predictor(**SQUARE, image=images, sizes=sizes)
  scores = predictor.scores(**SQUARE, image=images, sizes=sizes)
  for i, (image, size) in enumerate(zip(images, sizes, strict=True)):
    expected = square_model.bilinear(square_model.scores(image), *size)
    check_labels(np.asarray(native)[i, : size[0], : size[1]], expected)
    views = []
    for height, width in ((40, 54), (290, 392)):
      scaled = resize.resize_image(np.ascontiguousarray(image), height, width)
      views.append(square_model.bilinear(square_model.scores(scaled), *size))
      mirrored = square_model.bilinear(square_model.scores(scaled[:, ::-1]), *size)
      views.append(mirrored[:, ::-1])
    check_labels(np.asarray(labels)[i, : size[0], : size[1]], np.mean(views, 0))
    np.testing.assert_allclose(scores[i].transpose(1, 2, 0), np.mean(views, 0), atol=2e-5)


def test_scores_of_small_images_count_with_the_square_that_they_are_padded_to(monkeypatch):
  """Blocks of classes and images are as small as the memory for them is meant to be."""
  asked = []
  classes = score_maps.classes_per_block
  monkeypatch.setattr(
    score_maps, "classes_per_block", lambda *args: asked.append(args) or classes(*args)
  )
  predictor = Predictor(square_model.architecture(), mesh_lib.data_mesh(jax.devices()[:1]))
  predictor(**SQUARE, image=photograph(20, 200)[None], sizes=[(20, 200)])
  assert asked == [(square_model.NUM_CLASSES, 128 * 200)]
