"""Who may import whom, read from the source of every module."""

import ast
import pathlib
import subprocess
import sys

import pytest

REPOSITORY = pathlib.Path(__file__).parents[1]
OWN = ("benchmarks", "configs", "input_pipeline", "kernels", "ltss_jax")
ANYTHING = None

# Modules of ltss_jax that bring config, data and model together.
_RUN = {
  "absl",
  "clu",
  "configs",
  "etils",
  "input_pipeline",
  "jax",
  "ltss_jax",
  "ml_collections",
  "numpy",
}

# Module or package -> what it may import beside the standard library; the longest prefix counts.
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
  # Whatever has no line of its own knows neither config nor data.
  "ltss_jax": {"absl", "etils", "jax", "ltss_jax", "numpy"},
  "ltss_jax.architectures": {"absl", "jax", "kernels", "ltss_jax", "numpy"},
  "ltss_jax.models": {"flax", "jax", "kernels", "ltss_jax.models", "numpy"},
  "ltss_jax.losses": {"jax", "ltss_jax.losses", "numpy"},
  "ltss_jax.losses.matching": {"jax", "ltss_jax.losses", "numpy", "optax", "scipy"},
  "ltss_jax.metrics": {"numpy"},
  "ltss_jax.results": {"etils", "ltss_jax.metrics", "ltss_jax.whole_file", "numpy"},
  "ltss_jax.mesh": {"absl", "jax", "numpy"},
  "ltss_jax.preemption": {"jax"},
  "ltss_jax.optimizer": {"jax", "ltss_jax.types", "numpy", "optax"},
  "ltss_jax.checkpoint": {"absl", "etils", "jax", "ltss_jax.checkpoint", "numpy", "orbax"},
  "ltss_jax.checkpoint.contents": {"etils", "jax", "ltss_jax.whole_file", "numpy", "xxhash"},
  "ltss_jax.metric_writer": {
    "absl",
    "clu",
    "etils",
    "ltss_jax.event_files",
    "ltss_jax.json_lines",
    "ltss_jax.whole_file",
    "ltss_jax.workdir",
    "numpy",
    "wandb",
  },
  "ltss_jax.event_files": {
    "PIL",
    "etils",
    "google",
    "ltss_jax.whole_file",
    "numpy",
    "tensorboard",
  },
  "ltss_jax.workdir": {"etils"},
  "ltss_jax.whole_file": {"etils"},
  "ltss_jax.json_lines": {"absl", "etils", "ltss_jax.whole_file"},
  "ltss_jax.train_step": {"absl", "jax", "ltss_jax", "numpy", "optax"},
  "ltss_jax.evaluate": _RUN,
  "ltss_jax.run_length": {"numpy", "pycocotools"},
  "ltss_jax.views": {"input_pipeline.resize", "ltss_jax.resize_labels", "numpy"},
  "ltss_jax.predict": _RUN,
  "ltss_jax.prediction_writer": {"etils", "input_pipeline", "ltss_jax", "numpy"},
  "ltss_jax.region_names": {"PIL", "cv2", "numpy"},
  "ltss_jax.api": _RUN | {"PIL"},
  "ltss_jax.export": _RUN,
  "ltss_jax.exported_program": {"etils", "input_pipeline.checked_files", "jax", "numpy"},
  "ltss_jax.examples": _RUN,
  "ltss_jax.example_images": {
    "etils",
    "input_pipeline",
    "ltss_jax.palette",
    "ltss_jax.whole_file",
    "numpy",
  },
  # Reads what a run has left: neither models nor JAX.
  "ltss_jax.report": {
    "PIL",
    "absl",
    "etils",
    "input_pipeline",
    "jinja2",
    "ltss_jax",
    "matplotlib",
    "numpy",
  },
  "ltss_jax.train": _RUN,
  # Parts of train and evaluate that have files of their own.
  "ltss_jax.build": _RUN,
  "ltss_jax.dataset": _RUN,
  "ltss_jax.inference_weights": _RUN,
  "ltss_jax.convert": _RUN,
  "ltss_jax.initial_state": _RUN | {"optax"},
  "ltss_jax.evaluation_run": _RUN,
  "ltss_jax.run_config": {"etils", "ltss_jax.whole_file", "ml_collections"},
  "ltss_jax.record_data": {"etils", "ltss_jax.whole_file", "ltss_jax.workdir"},
  "ltss_jax.run_data": {"etils", "input_pipeline", "ltss_jax", "numpy"},
  # It starts main.py as a process of its own and reads what that wrote.
  "ltss_jax.study": {"absl", "configs", "ltss_jax", "ml_collections", "numpy"},
  "ltss_jax.study.plots": {"ltss_jax.results", "ltss_jax.study", "matplotlib", "numpy"},
  "ltss_jax.study.statistics": {"numpy", "scipy"},
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


def violations(source: str, module: str, is_package: bool = False) -> list[str]:
  """Returns the names that a module imports and its rule does not allow."""
  allowed = RULES[max((rule for rule in RULES if is_within(module, rule)), key=len)]
  if allowed is ANYTHING:
    return []
  return sorted(
    name
    for name in imported_names(source, module, is_package)
    if name.split(".")[0] not in sys.stdlib_module_names
    and not any(is_within(name, entry) for entry in allowed)
  )


def test_every_module_keeps_to_its_rule():
  paths = [REPOSITORY / "main.py"]
  for package in OWN:
    paths += (REPOSITORY / package).rglob("*.py")
  found = {}
  for path in filter(pathlib.Path.exists, paths):
    module = module_name(path)
    names = violations(path.read_text(encoding="utf-8"), module, path.name == "__init__.py")
    if names:
      found[module] = names
  assert found == {}


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
  process = subprocess.run(
    [sys.executable, "-c", _IMPORT_ALL, "main", *names],
    cwd=REPOSITORY,
    capture_output=True,
    text=True,
    check=False,
  )
  assert process.returncode == 0, process.stderr


def test_every_top_level_package_has_a_rule():
  packages = {path.parent.name for path in REPOSITORY.glob("*/__init__.py")}
  assert packages <= set(OWN)
  assert set(OWN) <= set(RULES)


@pytest.mark.parametrize(
  ("module", "source", "expected"),
  [
    ("input_pipeline.transforms", "import jax", ["jax"]),
    ("input_pipeline.transforms", "from flax import nnx", ["flax.nnx"]),
    ("input_pipeline.prepare.ensure", "import ltss_jax.metrics", ["ltss_jax.metrics"]),
    ("input_pipeline.transforms", "def f():\n  import tensorflow as tf", ["tensorflow"]),
    ("kernels.ms_deform_attn.xla", "from ltss_jax import mesh", ["ltss_jax.mesh"]),
    ("kernels.ms_deform_attn.xla", "from jax.experimental import pallas", []),
    ("ltss_jax.models.resnet", "import optax, grain", ["grain", "optax"]),
    ("ltss_jax.models.resnet", "import ml_collections", ["ml_collections"]),
    ("ltss_jax.models.resnet", "from ltss_jax import losses", ["ltss_jax.losses"]),
    ("ltss_jax.models.resnet", "from . import layers\nfrom kernels import x", []),
    ("ltss_jax.models.resnet", "from ..losses import pixel", ["ltss_jax.losses.pixel"]),
    ("ltss_jax.losses.pixel", "from flax import nnx", ["flax.nnx"]),
    ("ltss_jax.metrics", "import jax", ["jax"]),
    ("ltss_jax.optimizer", "import orbax.checkpoint", ["orbax.checkpoint"]),
    ("ltss_jax.checkpoint", "from orbax.checkpoint import v1", []),
    ("ltss_jax.train_step", "import ml_collections", ["ml_collections"]),
    ("ltss_jax.train_step", "from input_pipeline import pipeline", ["input_pipeline.pipeline"]),
    ("ltss_jax.anything_new", "import optax", ["optax"]),
    ("ltss_jax.train", "from input_pipeline import pipeline\nimport ml_collections", []),
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
