"""Where the files of a run lie in its workdir, for those that write and those that read them."""

from etils import epath


def checkpoints(workdir: epath.PathLike) -> epath.Path:
  """Orbax checkpoints of the run, one folder a step."""
  return epath.Path(workdir) / "checkpoints"


def metrics(workdir: epath.PathLike) -> epath.Path:
  """metrics.jsonl: what was logged, one JSON object a line."""
  return epath.Path(workdir) / "metrics.jsonl"


def data(workdir: epath.PathLike) -> epath.Path:
  """data.json: which classes and images the run was started with."""
  return epath.Path(workdir) / "data.json"


def environment(workdir: epath.PathLike) -> epath.Path:
  """environment.jsonl: what each start of the training ran on, one JSON object a line."""
  return epath.Path(workdir) / "environment.jsonl"


def result(workdir: epath.PathLike, name: int | str) -> epath.Path:
  """Result of an evaluated step, or of weights of a name."""
  return epath.Path(workdir) / "eval" / f"{name}.json"


def confusion(workdir: epath.PathLike, name: int | str) -> epath.Path:
  """The counts behind the result."""
  return epath.Path(workdir) / "eval" / f"{name}_confusion.npz"


def predictions(workdir: epath.PathLike, name: int | str) -> epath.Path:
  """Run-length masks of all predicted labels."""
  return epath.Path(workdir) / "eval" / f"{name}_predictions.json"


def profile(workdir: epath.PathLike) -> epath.Path:
  """Traces of steps by the profiler, as xprof looks for them."""
  return epath.Path(workdir) / "profile"


def examples(workdir: epath.PathLike, name: int | str) -> epath.Path:
  """The worst and best of some validation images, with their predictions."""
  return epath.Path(workdir) / "eval" / f"{name}_examples.npz"
