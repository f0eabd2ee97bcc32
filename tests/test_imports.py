"""Who may import whom, read from the source of every module."""

import ast
import pathlib
import sys

import pytest

from tests import programs
from tests.programs import REPOSITORY

OWN = ("benchmarks", "configs", "input_pipeline", "kernels", "ltss_jax")
ANYTHING = None

# The rooms of ltss_jax from the ground up -> the rooms below them that they import. docs/design.md
# draws them.
ROOMS = {
  "compilation_cache": (),
  "console": (),
  "mesh": (),
  "optimizer": (),
  "dataset": (),
  "models": (),
  "losses": (),
  "workdir": ("dataset",),
  "results": ("workdir",),
  "visualization": ("workdir",),
  "checkpoint": ("workdir",),
  "architectures": ("losses", "models"),
  "weights": ("architectures", "models", "workdir"),
  "inference": ("architectures", "checkpoint", "mesh", "weights", "workdir"),
  "build": ("architectures", "dataset", "inference", "losses", "models", "optimizer"),
  "evaluation": ("build", "dataset", "inference", "mesh", "results", "visualization", "workdir"),
  "prediction": (
    "architectures",
    "build",
    "dataset",
    "inference",
    "mesh",
    "visualization",
    "workdir",
  ),
  "report": ("results", "visualization", "workdir"),
  "training": (
    "architectures",
    "build",
    "checkpoint",
    "dataset",
    "evaluation",
    "inference",
    "mesh",
    "optimizer",
    "report",
    "visualization",
    "weights",
    "workdir",
  ),
  "study": ("console", "results", "workdir"),
  "api": ("build", "checkpoint", "inference", "prediction", "visualization", "workdir"),
  "convert": (
    "architectures",
    "build",
    "checkpoint",
    "console",
    "dataset",
    "inference",
    "weights",
    "workdir",
  ),
  "__init__": ("api", "prediction"),
}

# What brings config, data and model together.
_RUN = {"absl", "configs", "etils", "input_pipeline", "jax", "ml_collections", "numpy"}

# Module or package -> what it may import beside the standard library and, in ltss_jax, the rooms
# above; the longest prefix counts.
RULES = {
  "main": ANYTHING,
  "benchmarks": ANYTHING,
  "configs": {"absl", "configs", "ml_collections"},
  "input_pipeline": {
    "PIL",
    "absl",
    "cv2",
    "etils",
    "grain",
    "input_pipeline",
    "numpy",
    "tensorflow_datasets",
    "tqdm",
  },
  "input_pipeline.stats": {"absl", "etils", "input_pipeline", "matplotlib", "numpy"},
  "kernels": {"jax", "kernels", "numpy"},
  "kernels.ms_deform_attn.bench": {"jax", "kernels", "numpy", "torch"},
  "ltss_jax": set(),
  "ltss_jax.compilation_cache": {"absl", "etils", "jax", "platformdirs"},
  "ltss_jax.console": {"absl"},
  "ltss_jax.mesh": {"absl", "jax", "numpy"},
  "ltss_jax.optimizer": {"jax", "optax"},
  "ltss_jax.dataset": _RUN,
  "ltss_jax.models": {"flax", "jax", "kernels", "numpy"},
  "ltss_jax.losses": {"jax", "numpy"},
  "ltss_jax.losses.sampling": {"jax", "kernels"},
  "ltss_jax.losses.matching": {"jax", "numpy", "optax", "scipy"},
  "ltss_jax.workdir": {"absl", "etils", "numpy"},
  "ltss_jax.workdir.run_config": {"configs", "etils", "ml_collections"},
  "ltss_jax.workdir.run_data": {"etils", "input_pipeline", "numpy"},
  "ltss_jax.workdir.run_environment": {"absl", "etils", "jax"},
  # Reads and writes numbers: no JAX.
  "ltss_jax.results": {"etils", "numpy"},
  "ltss_jax.visualization": {"PIL", "cv2", "etils", "input_pipeline", "numpy"},
  "ltss_jax.checkpoint": {"absl", "etils", "jax", "numpy", "orbax", "xxhash"},
  "ltss_jax.weights": {"absl", "etils", "jax", "numpy"},
  "ltss_jax.weights.hub": {"absl", "huggingface_hub"},
  "ltss_jax.architectures": {"absl", "jax", "kernels", "numpy"},
  "ltss_jax.inference": {"absl", "etils", "input_pipeline", "jax", "numpy"},
  "ltss_jax.inference.coco_rle": {"numpy", "pycocotools"},
  "ltss_jax.inference.restore": _RUN,
  "ltss_jax.build": _RUN,
  "ltss_jax.evaluation": _RUN,
  "ltss_jax.prediction": _RUN,
  "ltss_jax.prediction.exported_program": {"etils", "input_pipeline.checked_files", "jax", "numpy"},
  # Reads what a run has left: neither models nor JAX.
  "ltss_jax.report": {
    "PIL",
    "absl",
    "etils",
    "input_pipeline",
    "jinja2",
    "matplotlib",
    "numpy",
  },
  "ltss_jax.training": _RUN | {"clu", "optax"},
  "ltss_jax.training.train_step": {"absl", "jax", "numpy", "optax"},
  "ltss_jax.training.preemption": {"jax"},
  "ltss_jax.training.metric_writer": {"absl", "clu", "etils", "numpy", "wandb"},
  "ltss_jax.training.event_files": {"PIL", "etils", "google", "numpy", "tensorboard"},
  # It starts main.py as a process of its own and reads what that wrote.
  "ltss_jax.study": {"absl", "configs", "ml_collections", "numpy"},
  "ltss_jax.study.method_figures": {"matplotlib", "numpy"},
  "ltss_jax.study.statistics": {"numpy", "scipy"},
  "ltss_jax.api": _RUN | {"PIL"},
  "ltss_jax.convert": _RUN,
}


def module_name(path: pathlib.Path, root: pathlib.Path = REPOSITORY) -> str:
  parts = path.relative_to(root).with_suffix("").parts
  return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


def imported_names(source: str, module: str, is_package: bool) -> set[str]:
  """Returns the dotted names that a module's source imports, relative ones resolved."""
  names = set()
  for node in ast.walk(ast.parse(source)):
    if isinstance(node, ast.Import):
      names |= {alias.name for alias in node.names}
    elif isinstance(node, ast.ImportFrom):
      package = node.module or ""
      if node.level:
        above = module.split(".")[: len(module.split(".")) + is_package - node.level]
        package = ".".join([*above, package] if package else above)
      names |= {f"{package}.{alias.name}" for alias in node.names}
  return names


def is_within(name: str, package: str) -> bool:
  return name == package or name.startswith(f"{package}.")


def room_of(name: str) -> str | None:
  """The room of ltss_jax that a dotted name lies in; None outside, and for ltss_jax itself."""
  parts = name.split(".")
  return parts[1] if parts[0] == "ltss_jax" and len(parts) > 1 else None


def violations(source: str, module: str, is_package: bool = False) -> list[str]:
  """Returns the names that a module imports and its rule does not allow."""
  allowed = RULES[max((rule for rule in RULES if is_within(module, rule)), key=len)]
  if allowed is ANYTHING:
    return []
  room = room_of(module) or "__init__"
  if module.split(".")[0] == "ltss_jax":
    allowed = allowed | {f"ltss_jax.{below}" for below in (room, *ROOMS.get(room, ()))}
  return sorted(
    name
    for name in imported_names(source, module, is_package)
    if name.split(".")[0] not in sys.stdlib_module_names
    and not any(is_within(name, entry) for entry in allowed)
  )


def sources() -> dict[str, tuple[str, bool]]:
  """Module -> (its source, whether it is a package), of all that is imported in a run."""
  paths = [REPOSITORY / "main.py"]
  for package in OWN:
    paths += sorted((REPOSITORY / package).rglob("*.py"))
  return {
    module_name(path): (path.read_text(encoding="utf-8"), path.name == "__init__.py")
    for path in paths
  }


def test_every_module_keeps_to_its_rule():
  found = {}
  for module, (source, is_package) in sources().items():
    names = violations(source, module, is_package)
    if names:
      found[module] = names
  assert found == {}


def test_rooms_import_only_what_lies_below_them():
  rooms = list(ROOMS)
  for room, below in ROOMS.items():
    assert set(below) <= set(rooms[: rooms.index(room)]), room


def test_the_arrows_between_rooms_are_those_of_the_table():
  found = {room: set() for room in ROOMS}
  for module, (source, is_package) in sources().items():
    if module.split(".")[0] == "ltss_jax":
      room = room_of(module) or "__init__"
      found[room] |= {room_of(name) for name in imported_names(source, module, is_package)}
  assert {room: names - {room, None} for room, names in found.items()} == {
    room: set(below) for room, below in ROOMS.items()
  }


def test_no_module_imports_itself_over_others():
  modules = sources()
  imports = {
    module: {
      max((m for m in modules if is_within(name, m)), key=len, default=None)
      for name in imported_names(source, module, is_package)
    }
    - {None, module}
    for module, (source, is_package) in modules.items()
  }
  # Whoever imports nothing of what is left cannot be part of a circle.
  left = dict(imports)
  while free := [module for module, names in left.items() if not names & left.keys()]:
    for module in free:
      del left[module]
  assert left == {}


_IMPORT_ALL = """
import importlib
import sys

class Forbidden:
  def find_spec(self, name, path=None, target=None):
    if name == "tensorflow":
      raise SystemExit("TensorFlow was imported")

sys.meta_path.insert(0, Forbidden())
for name in sys.argv[1:]:
  importlib.import_module(name)
"""


def test_no_module_imports_tensorflow():
  """Nor does any library that they import, not even to see whether it is there."""
  packages = ("configs", "input_pipeline", "kernels", "ltss_jax")
  paths = [path for package in packages for path in sorted((REPOSITORY / package).rglob("*.py"))]
  names = [module_name(path) for path in paths if path.name != "__main__.py"]
  programs.run("-c", _IMPORT_ALL, "main", *names, check=True)


def test_every_top_level_package_has_a_rule():
  packages = {path.parent.name for path in REPOSITORY.glob("*/__init__.py")}
  assert packages <= set(OWN)
  assert set(OWN) <= set(RULES)


@pytest.mark.parametrize(
  ("module", "source", "expected"),
  [
    ("input_pipeline.transforms", "import jax", ["jax"]),
    ("input_pipeline.transforms", "from flax import nnx", ["flax.nnx"]),
    ("input_pipeline.prepare.ensure", "import ltss_jax.mesh", ["ltss_jax.mesh"]),
    ("input_pipeline.transforms", "def f():\n  import tensorflow as tf", ["tensorflow"]),
    ("kernels.ms_deform_attn.xla", "from ltss_jax import mesh", ["ltss_jax.mesh"]),
    ("kernels.ms_deform_attn.xla", "from jax.experimental import pallas", []),
    ("ltss_jax.models.resnet", "import optax, grain", ["grain", "optax"]),
    ("ltss_jax.models.resnet", "import ml_collections", ["ml_collections"]),
    ("ltss_jax.models.resnet", "from ltss_jax import losses", ["ltss_jax.losses"]),
    ("ltss_jax.models.resnet", "from . import layers\nfrom kernels import x", []),
    ("ltss_jax.models.resnet", "from ..losses import pixel", ["ltss_jax.losses.pixel"]),
    ("ltss_jax.losses.pixel", "from flax import nnx", ["flax.nnx"]),
    ("ltss_jax.results.metrics", "import jax", ["jax"]),
    ("ltss_jax.optimizer", "import orbax.checkpoint", ["orbax.checkpoint"]),
    ("ltss_jax.checkpoint", "from orbax.checkpoint import v1", []),
    ("ltss_jax.training.train_step", "import ml_collections", ["ml_collections"]),
    (
      "ltss_jax.training.train_step",
      "from input_pipeline import prepared",
      ["input_pipeline.prepared"],
    ),
    ("ltss_jax.anything_new", "import optax", ["optax"]),
    ("ltss_jax.training.loop", "from input_pipeline import pipeline\nimport ml_collections", []),
    ("ltss_jax.inference.predictor", "from ltss_jax import build", ["ltss_jax.build"]),
    ("ltss_jax.report.page", "from ltss_jax.training import loop", ["ltss_jax.training.loop"]),
    ("ltss_jax.study.runs", "import jax", ["jax"]),
    ("configs.common", "import jax, dataclasses, ml_collections", ["jax"]),
    ("main", "import jax, clu, anything", []),
  ],
)
def test_rule_catches(module, source, expected):
  assert violations(source, module) == expected


def test_relative_imports_of_a_package_resolve_to_itself():
  assert imported_names("from . import a\nfrom .b import c", "ltss_jax.models", True) == {
    "ltss_jax.models.a",
    "ltss_jax.models.b.c",
  }


def test_module_names():
  assert module_name(REPOSITORY / "ltss_jax" / "models" / "resnet.py") == "ltss_jax.models.resnet"
  assert module_name(REPOSITORY / "ltss_jax" / "models" / "__init__.py") == "ltss_jax.models"
