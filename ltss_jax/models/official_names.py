"""Official (detectron2) parameter names and layouts of the models here, and loading by them."""

import re
from collections.abc import Mapping
from typing import Any

import jax
import numpy as np

# Buffers of official checkpoints that carry no information a model here keeps.
_IGNORED_BUFFERS = re.compile(r"\.num_batches_tracked$")

_LEAVES = {"kernel": "weight", "scale": "weight", "mean": "running_mean", "var": "running_var"}

_DEEPLAB_HEAD = "sem_seg_head.decoder"
_DEEPLABV3PLUS_MODULES = (
  (r"^backbone/stem", "backbone.stem.conv1"),
  (r"^aspp/image_pool", f"{_DEEPLAB_HEAD}.res5.project_conv.convs.4.1"),
  (r"^aspp/branches/", f"{_DEEPLAB_HEAD}.res5.project_conv.convs."),
  (r"^aspp/project", f"{_DEEPLAB_HEAD}.res5.project_conv.project"),
  (r"^low_level", f"{_DEEPLAB_HEAD}.res2.project_conv"),
  (r"^fuse/", f"{_DEEPLAB_HEAD}.res2.fuse_conv."),
  (r"^classifier", "sem_seg_head.predictor"),
)
_MODULES = {"deeplabv3plus": _DEEPLABV3PLUS_MODULES}


def official_name(model: str, path: str) -> str:
  """Names a leaf as the official checkpoint does.

  Args:
    model: "deeplabv3plus".
    path: of a leaf in params or stats, with slashes: "backbone/res2/0/conv1/conv/kernel".

  Returns:
    The official name: "backbone.res2.0.conv1.weight".
  """
  module, leaf = path.rsplit("/", 1)
  for pattern, replacement in _MODULES[model]:
    module, count = re.subn(pattern, replacement, module)
    if count:
      break
  module = re.sub(r"/conv$", "", module).replace("/", ".")
  return f"{module}.{_LEAVES.get(leaf, leaf)}"


def _to_ours(array: np.ndarray) -> np.ndarray:
  """Convolution kernels O I kh kw -> kh kw I O; everything else as it is."""
  return array.transpose(2, 3, 1, 0) if array.ndim == 4 else array


def load_official(
  model: str, params: Any, stats: Any, arrays: Mapping[str, np.ndarray]
) -> tuple[Any, Any]:
  """Fills params and stats from (official name, array) pairs, strictly.

  Args:
    model: "deeplabv3plus".
    params: tree that gives structure and shapes (arrays or ShapeDtypeStructs).
    stats: likewise, the batch-norm running averages.
    arrays: official name -> array in official layout.

  Returns:
    (params, stats) as float32 numpy arrays.

  Raises:
    ValueError: names are missing (-) or left over (+), or shapes differ; all are listed.
  """
  problems, used = [], set()

  def load(key_path, leaf):
    # The first key only tells params from stats.
    path = jax.tree_util.keystr(key_path[1:], simple=True, separator="/")
    name = official_name(model, path)
    if name not in arrays:
      problems.append(f"- {name} {tuple(leaf.shape)}: missing in the checkpoint")
      return leaf
    used.add(name)
    array = _to_ours(np.asarray(arrays[name]))
    if array.shape != tuple(leaf.shape):
      problems.append(
        f"! {name}: the checkpoint has {array.shape}, the model {tuple(leaf.shape)} (our layout)"
      )
    return array.astype(np.float32)

  loaded = jax.tree_util.tree_map_with_path(load, (params, stats))
  for name in arrays:
    if name not in used and not _IGNORED_BUFFERS.search(name):
      problems.append(f"+ {name} {np.shape(arrays[name])}: not part of the model")
  if problems:
    raise ValueError(f"the weights do not fit a {model}:\n" + "\n".join(sorted(problems)))
  return loaded
