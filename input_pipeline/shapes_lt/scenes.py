"""Draws one scene of shapes_lt: stuff in regions, things upon them, light over everything."""

import colorsys
import dataclasses
import math

import cv2
import numpy as np

from input_pipeline.shapes_lt import classes, plan, shapes, textures

# A region of stuff takes at least this share of the image before things are put on it.
MIN_STUFF_SHARE = 0.10
# Whatever is put on top of a class leaves at least this share of its pixels visible.
MIN_VISIBLE = 0.55
# Chance of a second thing of the same class, and of unlabelled clutter in the image.
SECOND_THING = 0.35
CLUTTER = 0.6
CLUTTER_SIZE = (22.0, 48.0)
# Soft edge pixels whose coverage lies between these belong to neither side: they are ignored.
VOID_COVERAGE = (55, 200)
# Photometric variation of a whole scene.
LIGHT_GAIN = (0.80, 1.20)
LIGHT_SLOPE = 0.18
TEMPERATURE = 0.06
NOISE = (2.0, 7.0)
BLUR = (0.3, 0.8)
SHADOW_MARGIN = 8

CLUTTER_LOOK = classes.Look(
  (0, 180), (0.0, 0.8), (0.25, 0.9), (0.1, 0.4), ("plain", "marble", "dots", "leaves", "speckle")
)


@dataclasses.dataclass(frozen=True)
class Scene:
  """A drawn scene: image uint8 [H, W, 3] (RGB) and label uint8 [H, W]."""

  image: np.ndarray
  label: np.ndarray


def draw_scene(split: str, index: int) -> Scene:
  """Draws a scene; a function of its arguments alone.

  Args:
    split: "train" or "val".
    index: position of the image in the split.

  Returns:
    The scene. Exactly the classes of `plan.image_classes(split)[index]` appear in it.

  Raises:
    ValueError: the split does not exist, or the index lies outside it.
  """
  if not 0 <= index < plan.num_images(split):
    raise ValueError(f"image {index} of {split}: it has images 0 to {plan.num_images(split) - 1}")
  rng = np.random.default_rng([plan.SEED, plan.SPLITS.index(split), index, 1])
  members = plan.image_classes(split)[index]
  size = classes.IMAGE_SIZES[rng.integers(len(classes.IMAGE_SIZES))]
  stuff = [c for c in members if c < len(classes.STUFF)]
  canvas = _draw_stuff(rng, stuff, size)
  light = _draw_light(rng)
  for class_id in _thing_order(rng, members):
    _place_thing(rng, canvas, class_id, light)
  return Scene(image=_develop(rng, canvas.image, light), label=canvas.label)


@dataclasses.dataclass
class _Canvas:
  """Image float32 [H, W, 3], label uint8 [H, W], largest pixel count so far of each label [256]."""

  image: np.ndarray
  label: np.ndarray
  most: np.ndarray


def _draw_light(rng: np.random.Generator) -> np.ndarray:
  """Unit vector (x, y, z) towards the light; from above, z towards the viewer."""
  angle = rng.uniform(-0.85, -0.15) * math.pi
  x, y, z = math.cos(angle), math.sin(angle), rng.uniform(0.8, 1.5)
  return np.array([x, y, z], np.float32) / np.float32(math.hypot(x, y, z))


def _thing_order(rng: np.random.Generator, members: tuple[int, ...]) -> list[int]:
  """Things from back to front, clutter (the ignore label) among them."""
  order = [c for c in members if c >= len(classes.STUFF)]
  order += [c for c in order if rng.random() < SECOND_THING]
  if rng.random() < CLUTTER:
    order.append(classes.IGNORE_LABEL)
  return [order[i] for i in rng.permutation(len(order))]


def _surface(rng: np.random.Generator, look: classes.Look, height: int, width: int) -> np.ndarray:
  """A piece of a class's surface, float32 [H, W, 3] in 0..255."""
  hue = look.hue[0] + rng.uniform(-look.hue[1], look.hue[1])
  saturation = rng.uniform(*look.saturation)
  value = rng.uniform(*look.value)
  contrast = rng.uniform(*look.contrast)
  dark_hue = hue + rng.uniform(-12, 12)
  light = np.array(colorsys.hsv_to_rgb(hue / 360 % 1, saturation, value), np.float32) * 255
  dark_value = max(0.05, value - contrast)
  dark = np.array(colorsys.hsv_to_rgb(dark_hue / 360 % 1, saturation, dark_value), np.float32) * 255
  pattern = textures.TEXTURES[look.textures[rng.integers(len(look.textures))]]
  field = pattern(rng, height, width).astype(np.float32)  # [H, W]
  return dark + field[..., None] * (light - dark)  # [H, W, 3]


def _wave(rng: np.random.Generator, length: int, amplitude: float) -> np.ndarray:
  """A curved line: offsets in px along one image side, [length]."""
  t = np.linspace(0, 2 * math.pi, length, dtype=np.float32)
  offsets = np.zeros(length, np.float32)
  for frequency in (0.5, 1.0, 2.3):
    share = rng.uniform(0.2, 1.0) * amplitude / (1 + frequency)
    offsets += np.float32(share) * np.sin(frequency * t + np.float32(rng.uniform(0, 2 * math.pi)))
  return offsets


def _region(rng: np.random.Generator, position: float, size: tuple[int, int]) -> np.ndarray:
  """Coverage of a nearer region of stuff, float32 [H, W] in 0..1.

  Args:
    rng: randomness.
    position: height of its upper border, as a share of H.
    size: (H, W).
  """
  height, width = size
  y = np.arange(height, dtype=np.float32)[:, None]
  x = np.arange(width, dtype=np.float32)[None, :]
  top = height * position + rng.uniform(-0.25, 0.25) * (x - width / 2)
  depth = y - top - _wave(rng, width, 0.2 * height)[None, :]  # [H, W]
  if rng.random() < 0.35:
    # Cut off on one side by a second border, so that the far stuff reaches down beside it.
    side = rng.choice((-1.0, 1.0)) * (x - rng.uniform(0.3, 0.7) * width)
    other = side + _wave(rng, height, 0.2 * width)[:, None] + 0.25 * width
    depth = np.minimum(depth, other)
  return np.clip(depth + 0.5, 0, 1).astype(np.float32)


def _draw_stuff(rng: np.random.Generator, stuff: list[int], size: tuple[int, int]) -> _Canvas:
  """Fills the canvas with regions of stuff, far layers on top."""
  shuffled = [stuff[i] for i in rng.permutation(len(stuff))]
  order = sorted(shuffled, key=lambda c: classes.STUFF[c].layer)
  label, regions = _lay_out(rng, order, size)
  image = _surface(rng, classes.STUFF[order[0]].look, *size)
  for class_id, region in zip(order[1:], regions, strict=True):
    surface = _surface(rng, classes.STUFF[class_id].look, *size)
    image += region[..., None] * (surface - image)
  most = np.bincount(label.ravel(), minlength=256)
  return _Canvas(image=image, label=label, most=most)


def _lay_out(
  rng: np.random.Generator, order: list[int], size: tuple[int, int]
) -> tuple[np.ndarray, list[np.ndarray]]:
  """Draws borders until every region is large enough; returns label [H, W] and coverages."""
  least = MIN_STUFF_SHARE * size[0] * size[1]
  while True:
    label = np.full(size, order[0], np.uint8)
    regions = []
    for rank, class_id in enumerate(order[1:], start=1):
      region = _region(rng, rank / len(order) + rng.uniform(-0.12, 0.12), size)
      label[region >= 0.5] = class_id
      regions.append(region)
    counts = np.bincount(label.ravel(), minlength=256)
    if all(counts[c] >= least for c in order):
      return label, regions


def _clutter_outline(rng: np.random.Generator) -> shapes.Outline:
  """An irregular blob that is no class."""
  angles = np.linspace(0, 2 * math.pi, 28, endpoint=False)
  radius = np.full(28, 0.72)
  for frequency in (2, 3, 5):
    radius += rng.uniform(0.03, 0.16) * np.sin(frequency * angles + rng.uniform(0, 2 * math.pi))
  return (tuple(zip(radius * np.cos(angles), radius * np.sin(angles), strict=True)),)


def _place_thing(
  rng: np.random.Generator, canvas: _Canvas, class_id: int, light: np.ndarray
) -> None:
  """Draws a thing where it leaves everything else visible enough."""
  if class_id == classes.IGNORE_LABEL:
    outline, look = _clutter_outline(rng), CLUTTER_LOOK
    diameter, turn = rng.uniform(*CLUTTER_SIZE), 0.0
  else:
    spec = classes.CLASSES[class_id]
    outline, look = spec.outline, spec.look
    diameter, turn = rng.uniform(*spec.size), rng.uniform(-spec.turn, spec.turn)
  height, width = canvas.label.shape
  present = np.bincount(canvas.label.ravel(), minlength=256)
  while True:
    margin = 0.4 * diameter
    center = (rng.uniform(margin, width - margin), rng.uniform(margin, height - margin))
    reach = diameter / 2 + SHADOW_MARGIN
    left, top = max(0, int(center[0] - reach)), max(0, int(center[1] - reach))
    box = np.s_[top : int(center[1] + reach) + 1, left : int(center[0] + reach) + 1]
    local = (center[0] - left, center[1] - top)
    mask = shapes.coverage(outline, local, diameter, turn, canvas.label[box].shape)
    covered = np.bincount(canvas.label[box][mask >= VOID_COVERAGE[0]], minlength=256)
    covered[[class_id, classes.IGNORE_LABEL]] = 0
    if np.all((present - covered >= MIN_VISIBLE * canvas.most) | (covered == 0)):
      break
    diameter *= 0.97
  _cast_shadow(canvas.image[box], outline, local, diameter, turn, light)
  _paint(rng, canvas.image[box], mask, look, diameter, light)
  region = canvas.label[box]
  region[mask >= VOID_COVERAGE[0]] = classes.IGNORE_LABEL
  region[mask >= VOID_COVERAGE[1]] = class_id
  canvas.most = np.maximum(canvas.most, np.bincount(canvas.label.ravel(), minlength=256))


def _cast_shadow(
  image: np.ndarray,
  outline: shapes.Outline,
  center: tuple[float, float],
  diameter: float,
  turn: float,
  light: np.ndarray,
) -> None:
  """Darkens the image [H, W, 3] in place where the thing keeps the light off."""
  away = (center[0] - 5 * float(light[0]), center[1] - 5 * float(light[1]))
  shadow = shapes.coverage(outline, away, diameter, turn, image.shape[:2])
  soft = cv2.GaussianBlur(shadow.astype(np.float32), (0, 0), 2.2) / 255
  image *= 1 - 0.42 * soft[..., None]


def _paint(
  rng: np.random.Generator,
  image: np.ndarray,
  mask: np.ndarray,
  look: classes.Look,
  diameter: float,
  light: np.ndarray,
) -> None:
  """Paints a bevelled, lit surface into the image [H, W, 3] in place, through mask uint8 [H, W]."""
  surface = _surface(rng, look, *mask.shape)
  # A frame keeps the distance finite and the rim of a thing that the image cuts unbevelled.
  inside = np.pad((mask >= 128).astype(np.uint8), 1)
  distance = cv2.distanceTransform(inside, cv2.DIST_L2, 3)[1:-1, 1:-1]  # [H, W]
  bevel = np.float32(diameter * rng.uniform(0.12, 0.4))
  relief = bevel * np.sqrt(1 - (1 - np.minimum(distance / bevel, 1)) ** 2)
  relief = cv2.GaussianBlur(relief, (0, 0), 1.2)
  slope_x = cv2.Sobel(relief, cv2.CV_32F, 1, 0, scale=0.125)
  slope_y = cv2.Sobel(relief, cv2.CV_32F, 0, 1, scale=0.125)
  facing = light[2] - slope_x * light[0] - slope_y * light[1]
  facing /= np.sqrt(1 + slope_x**2 + slope_y**2)
  shade = np.clip(0.35 + 0.65 * facing / light[2], 0.3, 1.4)
  gloss = np.float32(rng.uniform(0, 90)) * np.clip(facing, 0, 1) ** 24
  lit = surface * shade[..., None] + gloss[..., None]
  image += (mask.astype(np.float32) / 255)[..., None] * (lit - image)


def _develop(rng: np.random.Generator, image: np.ndarray, light: np.ndarray) -> np.ndarray:
  """Lights the whole scene, blurs it, adds sensor noise; returns uint8 [H, W, 3]."""
  height, width = image.shape[:2]
  y = np.linspace(-1, 1, height, dtype=np.float32)[:, None]
  x = np.linspace(-1, 1, width, dtype=np.float32)[None, :]
  slope = np.float32(rng.uniform(0, LIGHT_SLOPE))
  gain = np.float32(rng.uniform(*LIGHT_GAIN)) + slope * (x * light[0] + y * light[1])  # [H, W]
  warmth = rng.uniform(-TEMPERATURE, TEMPERATURE)
  tint = np.array([1 + warmth, 1, 1 - warmth], np.float32)
  lit = image * gain[..., None] * tint
  lit = cv2.GaussianBlur(lit, (0, 0), rng.uniform(*BLUR))
  lit += np.float32(rng.uniform(*NOISE)) * rng.standard_normal(lit.shape, dtype=np.float32)
  return np.clip(np.round(lit), 0, 255).astype(np.uint8)
