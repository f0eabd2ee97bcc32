"""What training data cost on the host: `python -m benchmarks.input_pipeline`, a minute and a half.

Images per second on one core for 640 x 480 JPEGs with 8-bit labels through the full chain (scale
jitter 0.5 to 2, crop 512, colours, flip, padding), against a straightforward chain of PIL, numpy
and OpenCV: decode, resize the whole image, crop, colours in floating point (HSV too), one boolean
mask per class; and against the same with the 8-bit HSV of the published loader. The candidates take
turns in one thread, whose CPU time is what counts; read the ratios on a shared machine. Then the
scaling over workers, the memory over epochs, and the time of the repeat factors.
"""

import dataclasses
import io
import multiprocessing
import os
import pathlib
import time
from collections.abc import Callable

import cv2
import numpy as np
from absl import app
from PIL import Image

from configs import coco_stuff
from input_pipeline import class_stats, copy_paste, pipeline, repeat_factor, transforms
from input_pipeline.raw import record
from ltss_jax.build.fields import fields_of

HEIGHT, WIDTH, CROP, NUM_CLASSES, IGNORE = 480, 640, 512, 171, 255
_RECORDS, _IMAGES, _REPETITIONS = 48, 16, 12


class Records:
  """Images with the spectrum of photographs and labels of some ten regions, encoded in memory."""

  def __init__(self, count: int = _RECORDS):
    self._records = [_record(seed) for seed in range(count)]

  def __len__(self) -> int:
    return len(self._records)

  def __getitem__(self, index: int) -> dict:
    return self._records[index]


def _record(seed: int) -> dict:
  rng = np.random.default_rng(seed)
  image = np.full((HEIGHT, WIDTH, 3), 128, np.float32)
  for cells in (4, 8, 16, 32, 64, 128):
    noise = rng.normal(size=(cells * HEIGHT // WIDTH + 1, cells, 3)).astype(np.float32)
    image += cv2.resize(noise, (WIDTH, HEIGHT), interpolation=cv2.INTER_CUBIC) * 90 / cells**0.6
  image += rng.normal(size=image.shape) * 3
  centres = rng.random((30, 2)) * (HEIGHT, WIDTH)
  values = rng.choice([*rng.choice(NUM_CLASSES, 9, replace=False), IGNORE], 30)
  distance = np.hypot(
    np.arange(HEIGHT)[:, None, None] - centres[:, 0],
    np.arange(WIDTH)[None, :, None] - centres[:, 1],
  )
  label = values[distance.argmin(axis=-1)].astype(np.uint8)
  return {
    "image": _encode_jpeg(np.clip(image, 0, 255).astype(np.uint8)),
    "label": record.encode_label(label),
    "file_name": f"{seed}.jpg",
  }


def _encode_jpeg(image: np.ndarray) -> bytes:
  buffer = io.BytesIO()
  Image.fromarray(image).save(buffer, "jpeg", quality=90)
  return buffer.getvalue()


def _scaled(values: np.ndarray, alpha: float = 1.0, beta: float = 0.0) -> np.ndarray:
  return np.clip(values.astype(np.float32) * alpha + beta, 0, 255).astype(np.uint8)


def _saturation_and_hue(image: np.ndarray, rng: np.random.Generator) -> np.ndarray:
  """The published loader's: 8-bit HSV, each operation with conversions of its own."""
  if rng.integers(2):
    image = cv2.cvtColor(np.ascontiguousarray(image), cv2.COLOR_RGB2HSV)
    image[:, :, 1] = _scaled(image[:, :, 1], alpha=rng.uniform(0.5, 1.5))
    image = cv2.cvtColor(image, cv2.COLOR_HSV2RGB)
  if rng.integers(2):
    image = cv2.cvtColor(np.ascontiguousarray(image), cv2.COLOR_RGB2HSV)
    image[:, :, 0] = (image[:, :, 0].astype(int) + rng.integers(-18, 19)) % 180
    image = cv2.cvtColor(image, cv2.COLOR_HSV2RGB)
  return image


def _float_saturation_and_hue(image: np.ndarray, rng: np.random.Generator) -> np.ndarray:
  saturate, turn = rng.integers(2), rng.integers(2)
  if not saturate and not turn:
    return image
  hsv = cv2.cvtColor(image.astype(np.float32) / 255, cv2.COLOR_RGB2HSV)
  if saturate:
    hsv[:, :, 1] = np.clip(hsv[:, :, 1] * np.float32(rng.uniform(0.5, 1.5)), 0, 1)
  if turn:
    hsv[:, :, 0] = (hsv[:, :, 0] + np.float32(rng.uniform(-36, 36))) % 360
  return _scaled(cv2.cvtColor(hsv, cv2.COLOR_HSV2RGB), alpha=255)


def _baseline_colors(
  image: np.ndarray, rng: np.random.Generator, saturation_and_hue: Callable
) -> np.ndarray:
  if rng.integers(2):
    image = _scaled(image, beta=rng.uniform(-32, 32))
  before = rng.integers(2)
  if not before:
    image = saturation_and_hue(image, rng)
  if rng.integers(2):
    image = _scaled(image, alpha=rng.uniform(0.5, 1.5))
  return saturation_and_hue(image, rng) if before else image


def _baseline_augmented(
  record: dict, rng: np.random.Generator, saturation_and_hue: Callable
) -> tuple[np.ndarray, np.ndarray]:
  image = Image.open(io.BytesIO(record["image"])).convert("RGB")
  label = np.array(Image.open(io.BytesIO(record["label"])))
  size = int(rng.integers(5, 21) * 0.1 * CROP)
  height, width = size, int(WIDTH * size / HEIGHT + 0.5)
  image = np.array(image.resize((width, height), Image.Resampling.BILINEAR))
  rows, columns = np.arange(height) * HEIGHT // height, np.arange(width) * WIDTH // width
  label = label[rows[:, None], columns]
  top, left = rng.integers(max(0, height - CROP) + 1), rng.integers(max(0, width - CROP) + 1)
  window = np.s_[top : top + CROP, left : left + CROP]
  image, label = _baseline_colors(image[window], rng, saturation_and_hue), label[window]
  if rng.integers(2):
    image, label = image[:, ::-1], label[:, ::-1]
  padding = [(0, CROP - label.shape[0]), (0, CROP - label.shape[1])]
  image = np.pad(image, [*padding, (0, 0)], constant_values=128)
  return image, np.pad(label, padding, constant_values=IGNORE)


def baseline(
  source: Records, rng: np.random.Generator, *, paste: bool, saturation_and_hue: Callable
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
  """One example the straightforward way.

  Args:
    source: random access to the images.
    rng: source of randomness.
    paste: whether Copy-Paste is on.
    saturation_and_hue: function of an image and a source of randomness.

  Returns:
    (image uint8 [S, S, 3], classes int [K], boolean masks [K, S, S]).
  """

  def augmented():
    return _baseline_augmented(source[int(rng.integers(len(source)))], rng, saturation_and_hue)

  image, label = augmented()
  if paste:
    other_image, other = augmented()
    present = np.setdiff1d(np.unique(other), [IGNORE])
    for value in rng.choice(present, rng.integers(len(present)), replace=False):
      mask = other == value
      image[mask], label[mask] = other_image[mask], value
  classes = np.setdiff1d(np.unique(label), [IGNORE])
  return image, classes, np.stack([label == value for value in classes])


# All classes of the second image that `data.copy_paste=random` chooses from, as they are.
_PASTE = copy_paste.CopyPaste(
  IGNORE, "random", classes=(), flip=False, min_scale=1.0, max_scale=1.0
)


def _config(source: Records, *, exact: bool = False, **changes) -> pipeline.TrainPipelineConfig:
  """The recipe of COCO-Stuff, repeat factor sampling on."""
  factors = 1 + np.random.default_rng(0).exponential(0.3, len(source))
  data = coco_stuff.get_config().data
  augmentation = fields_of(transforms.Augmentation, data)
  augmentation |= {"crop_size": CROP, "base_size": CROP, "ignore_label": IGNORE}
  augmentation |= {"exact_pixels": exact}
  config = pipeline.TrainPipelineConfig(
    batch_size=_IMAGES,
    seed=0,
    augmentation=transforms.Augmentation(**augmentation),
    num_workers=0,
    prefetch=data.prefetch,
    max_targets=64,
    class_counts=tuple(range(NUM_CLASSES)),
    repeat_factors=factors,
  )
  return dataclasses.replace(config, **changes)


def _seconds(function: Callable, argument: int) -> float:
  start = time.thread_time()
  function(argument)
  return time.thread_time() - start


def _baseline_batch(source: Records, **options) -> Callable[[int], None]:
  def batch(number: int) -> None:
    rng = np.random.default_rng(number)
    for _ in range(_IMAGES):
      baseline(source, rng, **options)

  return batch


def one_core(source: Records) -> None:
  """Prints images/s of every setting beside the baseline's, in turn in one thread."""
  cv2.setNumThreads(0)
  for title, paste in (("", None), (" with Copy-Paste", _PASTE)):
    options = {"paste": paste is not None}
    candidates = {
      "baseline": _baseline_batch(source, saturation_and_hue=_float_saturation_and_hue, **options),
      "8-bit HSV": _baseline_batch(source, saturation_and_hue=_saturation_and_hue, **options),
    }
    for name, exact in (("default", False), ("exact_pixels=True", True)):
      config = _config(source, copy_paste=paste, exact=exact)
      candidates[name] = pipeline.TrainBatches(source, config).__getitem__
    times = {name: [] for name in candidates}
    for number in range(_REPETITIONS):
      for name, function in candidates.items():
        times[name].append(_seconds(function, number))
    # Sums: which sizes and colours are drawn differs from batch to batch and between candidates.
    total = {name: sum(seconds) for name, seconds in times.items()}
    for name, seconds in total.items():
      rate = _IMAGES * _REPETITIONS / seconds
      ratios = f"{total['baseline'] / seconds:.2f} x the baseline"
      ratios += f", {total['8-bit HSV'] / seconds:.2f} x that with 8-bit HSV"
      print(f"one core{title}, {name}: {rate:.0f} images/s, {ratios}")


def workers(source: Records) -> None:
  """Prints images/s of one and of two worker processes."""
  rates = []
  for count in (1, 2):
    with pipeline.train_iterator(source, _config(source, num_workers=count)) as iterator:
      for _ in range(4):  # Processes start, buffers fill.
        next(iterator)
      start, batches = time.perf_counter(), 24
      for _ in range(batches):
        next(iterator)
      rates.append(batches * _IMAGES / (time.perf_counter() - start))
  print(
    f"workers: 1: {rates[0]:.0f} images/s, 2: {rates[1]:.0f} images/s, {rates[1] / rates[0]:.2f} x"
  )


def _resident_mib() -> float:
  """Resident memory of this process and its workers that no other process shares, MiB."""
  processes = [os.getpid(), *(child.pid for child in multiprocessing.active_children())]
  total = 0
  for process in processes:
    fields = pathlib.Path(f"/proc/{process}/smaps_rollup").read_text().split("\n")
    private = (line for line in fields if line.startswith("Private_"))
    total += sum(int(line.split()[1]) for line in private)
  return total / 1024


def memory(source: Records) -> None:
  """Prints the loader's memory after each of 5 epochs."""
  for count in (0, 2):
    config = _config(source, num_workers=count, copy_paste=_PASTE)
    batches = round(config.repeat_factors.sum() / _IMAGES)
    with pipeline.train_iterator(source, config) as iterator:
      sizes = []
      for _ in range(6):
        for _ in range(batches):
          next(iterator)
        sizes.append(_resident_mib())
    text = ", ".join(f"{size:.0f}" for size in sizes)
    print(f"memory with {count} workers, after a first epoch and each of 5 more: {text} MiB")


def factors() -> None:
  """Prints the time of the factors for the size of COCO-Stuff, 118,287 x 171."""
  rng, num_images = np.random.default_rng(0), 118_287
  probability = 1 / np.arange(1, NUM_CLASSES + 1) ** 0.8
  probability = np.minimum(0.9, probability * 8 / probability.sum())
  present = rng.random((num_images, NUM_CLASSES), dtype=np.float32) < probability
  image, class_ids = np.nonzero(present)
  counts = class_stats.PixelCounts(
    height=np.full(num_images, HEIGHT, np.int32),
    width=np.full(num_images, WIDTH, np.int32),
    row_offsets=np.searchsorted(image, np.arange(num_images + 1)),
    class_ids=class_ids.astype(np.int32),
    pixels=rng.integers(1, 30_000, len(image)),
  )
  for reduce in repeat_factor.REDUCTIONS:
    start = time.perf_counter()
    stats = class_stats.class_stats(counts, NUM_CLASSES)
    threshold = repeat_factor.default_threshold(stats)
    frequency = repeat_factor.class_frequency(stats)
    class_factors = class_stats.class_repeat_factors(frequency, threshold)
    result = repeat_factor.image_repeat_factors(counts, class_factors, reduce)
    seconds = time.perf_counter() - start
    print(f"repeat factors ({reduce}), 118,287 x 171: {seconds:.3f} s, mean {result.mean():.3f}")


def main() -> None:
  """Runs every part."""
  source = Records()
  one_core(source)
  workers(source)
  memory(source)
  factors()


if __name__ == "__main__":
  app.run(lambda argv: main())  # worker processes of the input pipeline read absl flags
