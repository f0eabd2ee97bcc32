"""Times repeat factors and the long-tailed sampler: `python -m benchmarks.statistics`.

The data is simulated at the size of COCO-Stuff: class frequencies that fall geometrically, so that
the Gini coefficient of the images per class is 0.50 at 8 classes an image, and classes that are
drawn independently. A Zipf or log-normal profile of the same coefficient is easier for the sampler
(it ends at 0.70 and 0.68).
"""

import resource
import sys
import time

import numpy as np
from absl import app

from input_pipeline import class_stats, lt_sampling, repeat_factor

NUM_IMAGES, NUM_CLASSES, CLASSES_PER_IMAGE = 118_287, 171, 8
TARGET_IMAGES, SOURCE_GINI, REQUIRED_GINI = 40_679, 0.50, 0.66
MAX_SECONDS, MAX_GIGABYTES, MAX_FACTOR_SECONDS = 60, 2, 2


def class_frequencies() -> np.ndarray:
  """Falling frequencies with the required Gini coefficient and mean number of classes, [C]."""
  position = np.arange(NUM_CLASSES) / NUM_CLASSES
  low, high = 0.0, 20.0
  for _ in range(60):  # the coefficient grows with the steepness
    steepness = (low + high) / 2
    profile = np.exp(-steepness * position)
    low, high = (steepness, high) if class_stats.gini(profile) < SOURCE_GINI else (low, steepness)
  return profile * CLASSES_PER_IMAGE / profile.sum()


def simulated_presence(seed: int) -> np.ndarray:
  """Which image shows which class, bool [N, C]; each entry is drawn by its class's frequency."""
  rng = np.random.default_rng(seed)
  frequency = class_frequencies().astype(np.float32)
  return rng.random((NUM_IMAGES, NUM_CLASSES), np.float32) < frequency


def peak_gigabytes() -> float:
  """Largest memory that this process has held so far, in 10^9 bytes."""
  unit = 1 if sys.platform == "darwin" else 1024
  return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit / 1e9


def sampler(level: str, presence: np.ndarray, pixel_share: np.ndarray | None) -> bool:
  """Draws the subset twice and prints what it took; returns whether it is as good as required."""
  seconds, subsets = [], []
  for _ in range(2):
    start = time.perf_counter()
    subsets.append(
      lt_sampling.greedy_subset(presence, pixel_share, target_images=TARGET_IMAGES, level=level)
    )
    seconds.append(time.perf_counter() - start)
  kept = subsets[0]
  before, after = presence.sum(axis=0), presence[kept].sum(axis=0)
  line = f"Gini by images {class_stats.gini(before):.4f} -> {class_stats.gini(after):.4f}"
  if pixel_share is not None:
    shares = [share.sum(axis=0, dtype=np.float64) for share in (pixel_share, pixel_share[kept])]
    line += f", by pixels {class_stats.gini(shares[0]):.4f} -> {class_stats.gini(shares[1]):.4f}"
  print(
    f"sampler, level {level}: {NUM_IMAGES} -> {len(kept)} images in {min(seconds):.1f} s, {line},"
    f" rarest class in {after.min()} images, peak memory {peak_gigabytes():.2f} GB"
  )
  return (
    len(kept) == TARGET_IMAGES
    and np.array_equal(*subsets)
    and after.min() >= 1
    and max(seconds) < MAX_SECONDS
    and peak_gigabytes() < MAX_GIGABYTES
    and (level != "image" or class_stats.gini(after) >= REQUIRED_GINI)
  )


def repeat_factors(presence: np.ndarray) -> bool:
  """Repeat factors of all the images from the stored counts; returns whether it is fast enough."""
  rows, class_ids = np.nonzero(presence)
  counts = class_stats.PixelCounts(
    height=np.full(len(presence), 480, np.int32),
    width=np.full(len(presence), 640, np.int32),
    row_offsets=np.searchsorted(rows, np.arange(len(presence) + 1)),
    class_ids=class_ids.astype(np.int32),
    pixels=np.random.default_rng(1).integers(1, 38_400, len(class_ids), np.int64),
  )
  start = time.perf_counter()
  stats = class_stats.class_stats(counts, NUM_CLASSES)
  threshold = class_stats.frequency_threshold(stats.images_with_class, stats.num_images)
  frequency = repeat_factor.class_frequency(stats)
  class_factors = class_stats.class_repeat_factors(frequency, threshold)
  factors = repeat_factor.image_repeat_factors(counts, class_factors)
  seconds = time.perf_counter() - start
  print(
    f"repeat factors of {len(factors)} images from {len(class_ids)} stored counts:"
    f" {1e3 * seconds:.0f} ms, {factors.sum() / len(factors):.4f} on average"
  )
  return seconds < MAX_FACTOR_SECONDS


def main(argv: list[str]) -> int:
  """Runs every benchmark; the exit status is 1 where a requirement is missed."""
  del argv
  presence = simulated_presence(seed=0)
  print(f"simulated: {presence.sum() / NUM_IMAGES:.2f} classes an image")
  is_good = [sampler("image", presence, None)]
  is_good.append(repeat_factors(presence))
  # A present class covers a share drawn from an exponential, what is left of the image is ignored.
  share = np.random.default_rng(2).standard_exponential(presence.shape, np.float32) * presence
  share /= np.maximum(share.sum(axis=1, keepdims=True), 1)
  is_good += [sampler(level, presence, share) for level in ("pixel", "both")]
  if not all(is_good):
    print(
      f"A requirement is missed: {TARGET_IMAGES} images, a Gini coefficient of {REQUIRED_GINI} at"
      f" level image, every class, the same images twice, below {MAX_SECONDS} s and"
      f" {MAX_GIGABYTES} GB; repeat factors below {MAX_FACTOR_SECONDS} s.",
      file=sys.stderr,
    )
  return 0 if all(is_good) else 1


if __name__ == "__main__":
  app.run(main)
