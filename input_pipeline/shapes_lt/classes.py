"""The class table of shapes_lt: every knob of its frequencies and of its difficulty.

A rare class is the cousin of frequent ones: it shares an outline (house and square, heart and
triangle, drop and disc), a hue (heart) or a texture (snow and sand, gear and gravel's grey) with
them, and only the whole tells it apart. Colour jitter would wipe the hues out, so
configs/shapes_lt.py switches it off.
"""

import dataclasses

from input_pipeline import prepared
from input_pipeline.shapes_lt import shapes

NUM_TRAIN_IMAGES = 1200
NUM_VAL_IMAGES = 240
# val measures the rare classes too: each class is in at least this many val images.
MIN_VAL_IMAGES = 14
# (height, width) in px: few distinct shapes, because each costs an evaluation one compilation.
IMAGE_SIZES = ((128, 192), (192, 128), (160, 160), (144, 176), (176, 144), (128, 160))
IGNORE_LABEL = 255


@dataclasses.dataclass(frozen=True)
class Look:
  """Colours and textures that a class draws from.

  Attributes:
    hue: (centre, half width) in degrees of the HSV circle.
    saturation: (lowest, highest), 0 to 1.
    value: (lowest, highest) brightness, 0 to 1.
    contrast: (lowest, highest) brightness difference between the two tones of the texture.
    textures: names in `textures.TEXTURES`; one is drawn per region or thing.
  """

  hue: tuple[float, float]
  saturation: tuple[float, float]
  value: tuple[float, float]
  contrast: tuple[float, float]
  textures: tuple[str, ...]


@dataclasses.dataclass(frozen=True)
class Stuff:
  """A background class.

  Attributes:
    name: class name.
    train_images: number of train images that show it.
    layer: 0 far (top of the image), 1 middle, 2 near (bottom).
    look: colours and textures.
  """

  name: str
  train_images: int
  layer: int
  look: Look


@dataclasses.dataclass(frozen=True)
class Thing:
  """A foreground class.

  Attributes:
    name: class name.
    train_images: number of train images that show it.
    size: (smallest, largest) diameter in px.
    turn: largest rotation either way, in degrees.
    outline: shape, in the unit disc.
    look: colours and textures.
  """

  name: str
  train_images: int
  size: tuple[float, float]
  turn: float
  outline: shapes.Outline
  look: Look


# fmt: off
# name            hue        saturation   value        contrast      textures
RED    = Look((4, 14),    (0.60, 0.95), (0.55, 0.95), (0.10, 0.35), ("plain", "dots"))
BLUE   = Look((228, 16),  (0.50, 0.95), (0.50, 0.95), (0.20, 0.45), ("checks", "stripes"))
PINK   = Look((322, 16),  (0.40, 0.90), (0.60, 1.00), (0.15, 0.40), ("stripes", "plain"))
YELLOW = Look((52, 9),    (0.60, 1.00), (0.80, 1.00), (0.05, 0.25), ("plain", "rings"))
JADE   = Look((158, 16),  (0.50, 0.95), (0.50, 0.95), (0.20, 0.45), ("weave", "checks"))
ORANGE = Look((28, 10),   (0.70, 1.00), (0.75, 1.00), (0.35, 0.55), ("stripes",))
WHITE  = Look((220, 180), (0.00, 0.10), (0.85, 1.00), (0.15, 0.35), ("marble",))
VIOLET = Look((276, 12),  (0.45, 0.85), (0.60, 1.00), (0.35, 0.55), ("speckle",))
CYAN   = Look((176, 10),  (0.50, 0.90), (0.80, 1.00), (0.25, 0.45), ("rings", "plain"))
# The looks of the rarest: next to a hue above, with textures that its owner does not wear.
MINT   = Look((130, 10),  (0.45, 0.85), (0.65, 1.00), (0.25, 0.45), ("dots",))
ROSE   = Look((334, 12),  (0.50, 0.90), (0.60, 1.00), (0.25, 0.45), ("checks", "dots"))
COAL   = Look((265, 25),  (0.15, 0.45), (0.12, 0.32), (0.35, 0.55), ("rings", "dots"))
IRON   = Look((220, 180), (0.00, 0.10), (0.35, 0.60), (0.30, 0.45), ("checks", "stripes"))
LIME   = Look((70, 6),    (0.70, 1.00), (0.80, 1.00), (0.35, 0.55), ("checks", "speckle"))

STUFF = (
  #      name     train layer   hue          saturation    value         contrast      textures
  Stuff("sky",     1080, 0, Look((210, 12), (0.15, 0.55), (0.75, 1.00), (0.10, 0.25), ("clouds",))),
  Stuff("grass",    760, 2, Look((88, 14),  (0.40, 0.75), (0.45, 0.80), (0.20, 0.40), ("blades",))),
  Stuff("water",    360, 2, Look((194, 14), (0.35, 0.75), (0.35, 0.70), (0.15, 0.30), ("waves",))),
  Stuff("foliage",  230, 1, Look((118, 16), (0.40, 0.80), (0.25, 0.50), (0.20, 0.40), ("leaves",))),
  Stuff("brick",    150, 1, Look((10, 9),   (0.35, 0.70), (0.40, 0.80), (0.20, 0.40), ("bricks",))),
  Stuff("sand",      95, 2, Look((44, 8),   (0.25, 0.50), (0.75, 1.00), (0.08, 0.22), ("dunes",))),
  Stuff("planks",    66, 1, Look((28, 8),   (0.40, 0.70), (0.35, 0.65), (0.20, 0.40), ("planks",))),
  Stuff("gravel",    36, 2, Look((40, 30),  (0.03, 0.18), (0.40, 0.75), (0.30, 0.50), ("stones",))),
  Stuff("snow",      17, 2, Look((210, 30), (0.00, 0.10), (0.88, 1.00), (0.06, 0.18), ("dunes",))),
)
THINGS = (
  #      name       train  size      turn  outline               look
  Thing("disc",         760, (30, 64),    0, shapes.DISC,          RED),
  Thing("square",       420, (36, 68),   18, shapes.SQUARE,        BLUE),
  Thing("triangle",     240, (38, 70),   25, shapes.TRIANGLE,      PINK),
  Thing("star",         150, (38, 70),   36, shapes.STAR,          YELLOW),
  Thing("ellipse",      100, (40, 72),   90, shapes.ELLIPSE,       JADE),
  Thing("ring",          76, (40, 72),    0, shapes.RING,          ORANGE),
  Thing("cross",         62, (40, 72),   20, shapes.CROSS,         WHITE),
  Thing("arrow_right",   54, (40, 72),   15, shapes.ARROW_RIGHT,   VIOLET),
  Thing("arrow_left",    46, (40, 72),   15, shapes.ARROW_LEFT,    VIOLET),
  Thing("crescent",      38, (40, 72),   40, shapes.CRESCENT,      CYAN),
  Thing("hexagon",       27, (40, 72),   30, shapes.HEXAGON,       MINT),
  Thing("heart",         20, (48, 80),   15, shapes.HEART,         ROSE),
  Thing("house",         12, (48, 80),    8, shapes.HOUSE,         COAL),
  Thing("gear",          14, (48, 80),   30, shapes.GEAR,          IRON),
  Thing("drop",          10, (48, 80),   15, shapes.DROP,          LIME),
)
# fmt: on

CLASSES = STUFF + THINGS
CLASS_NAMES = tuple(spec.name for spec in CLASSES)
NUM_CLASSES = len(CLASSES)
# Mirror images of each other: a horizontal flip of the image must swap the two labels.
FLIP_PAIRS = ((CLASS_NAMES.index("arrow_right"), CLASS_NAMES.index("arrow_left")),)
METADATA = prepared.ClassMetadata(
  name="shapes_lt",
  class_names=CLASS_NAMES,
  dataset_ids=tuple(range(NUM_CLASSES)),
  ignore_label=IGNORE_LABEL,
  flip_pairs=FLIP_PAIRS,
)
