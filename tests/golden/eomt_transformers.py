"""Makes `eomt_transformers.npz`: what `Eomt` and `EomtDinov3` of `transformers` compute.

python -m tests.golden.eomt_transformers    (needs torch and transformers)
was run with torch 2.13, transformers 5.24 and the random bits of jax 0.10.2.

The models have five blocks of width 48, the last two with ten queries, and seven classes; every
weight is a function of its name and shape (`weight`), so that the file holds names with shapes.
For two images of 64 x 64 px it has, for every kind in `KINDS` (L = 3 predictions, the last one
final; B = 2; mask logits at 16 x 16):
  <kind>_names: JSON of {name: shape};
  <kind>_<run>_class_logits [L, B, Q, C + 1] and <kind>_<run>_mask_logits [L, B, Q, 16, 16] of the
    runs in `RUNS`; of those that are not "masked" the final prediction alone, L = 1;
  <kind>_losses [L, 3] of the run "masked": class, mask and dice loss without weights;
  <kind>_loss: their weighted sum, as the package returns it;
  <kind>_query_of_target [L, B, T];
  <kind>_gradient/<name>: of that sum, for the names in `GRADIENTS`;
and `matching_points` [L, B, K, 2], the points of the matching costs in 1 / 65,536.
In training the coordinates of the rotary positions are multiplied by `RESCALE`.
"""

import json
import pathlib
from unittest import mock

import numpy as np

from tests import recipes
from tests.golden import mask_criterion, official_parameters

FOLDER = pathlib.Path(__file__).parent

SIDE, PATCH, CHANNELS, HEADS, DEPTH, QUERY_BLOCKS = 64, 16, 48, 3, 5, 2
NUM_CLASSES, NUM_QUERIES, IGNORED = 7, 10, 255
RESCALE = 1.25
POINT_SEED = 3
CRITERION = recipes.criterion(num_points=112)
KINDS = ("dinov2", "dinov2_swiglu", "dinov3")
# Run -> (training, mask probabilities of the last blocks).
RUNS = {
  "masked": (True, (1.0, 1.0)),
  "plain": (True, (0.0, 0.0)),
  "first_masked": (True, (1.0, 0.0)),
  "second_masked": (True, (0.0, 1.0)),
  "evaluated": (False, (0.0, 0.0)),
}
# Beginnings of names whose gradients are stored; the live test compares all of them.
_LAST = f"layers.{DEPTH - 1}."
GRADIENTS = (
  "query.weight",
  "class_predictor.",
  "mask_head.fc1.bias",
  "mask_head.fc3.weight",
  "upscale_block.block.0.conv1.weight",
  "upscale_block.block.1.conv2.weight",
  "upscale_block.block.1.layernorm2d.",
  _LAST + "attention.q_proj.",
  _LAST + "attention.k_proj.",
  _LAST + "attention.v_proj.",
  _LAST + "layer_scale1.",
  "layers.0.attention.q_proj.",
  "layers.0.attention.k_proj.",
  "layers.0.attention.v_proj.",
  "layers.0.layer_scale2.",
  "layers.0.mlp.gate_proj.",
  "layers.0.mlp.up_proj.",
  "layers.0.norm1.",
  "layernorm.",
  "embeddings.cls_token",
  "embeddings.register_tokens",
  "embeddings.position_embeddings",
  "embeddings.patch_embeddings.projection.bias",
  "embeddings.patch_embeddings.bias",
)


def batch() -> dict[str, np.ndarray]:
  """Normalised images [B, S, S, 3], label maps [B, S, S] with ignored pixels, classes [B, T]."""
  rng = np.random.default_rng(7)
  classes = np.array([[0, 2, 3, 6], [1, 5, -1, -1]], np.int32)
  cells = np.stack([rng.choice([*row[row >= 0], IGNORED], (8, 8)) for row in classes])
  return {
    "image": rng.standard_normal((2, SIDE, SIDE, 3)).astype(np.float32),
    "label": cells.repeat(SIDE // 8, 1).repeat(SIDE // 8, 2).astype(np.uint8),
    "classes": classes,
  }


def weight(name: str, shape: tuple[int, ...]) -> np.ndarray:
  """The golden weight of a name, with the scales that make masks, classes and tokens differ."""
  if name.endswith("attn_mask_probs"):
    return np.ones(shape, np.float32)
  value = official_parameters.official_parameter(name, shape)
  if "token" in name or "position_embeddings" in name or name == "query.weight":
    value = value / value.std()
    return value if name == "query.weight" else np.float32(0.3) * value
  if name.endswith("lambda1"):
    return np.float32(0.5) * value
  if name == "class_predictor.weight":
    return 12 * value
  if name in ("mask_head.fc2.weight", "mask_head.fc3.weight"):
    return (value - value.mean(1, keepdims=True)) * np.float32(np.sqrt(2))
  return value


def build(kind: str):
  """The torch model with its golden weights."""
  import torch
  import transformers

  fields = dict(
    hidden_size=CHANNELS,
    num_hidden_layers=DEPTH,
    num_attention_heads=HEADS,
    image_size=SIDE,
    patch_size=PATCH,
    num_blocks=QUERY_BLOCKS,
    num_queries=NUM_QUERIES,
    num_labels=NUM_CLASSES,
    train_num_points=CRITERION.num_points,
  )
  if kind == "dinov3":  # The encoder's own epsilon, which the package's default is not.
    config = transformers.EomtDinov3Config(
      intermediate_size=4 * CHANNELS, layer_norm_eps=1e-5, **fields
    )
    model = transformers.EomtDinov3ForUniversalSegmentation(config)
  else:
    config = transformers.EomtConfig(use_swiglu_ffn=kind == "dinov2_swiglu", **fields)
    model = transformers.EomtForUniversalSegmentation(config)
  names = {name: tuple(value.shape) for name, value in model.state_dict().items()}
  model.load_state_dict({name: torch.from_numpy(weight(name, s)) for name, s in names.items()})
  return model


def names_of(model) -> dict[str, list[int]]:
  """Names and shapes of the state dict."""
  return {name: list(value.shape) for name, value in model.state_dict().items()}


def outputs(model, run: str) -> dict[str, np.ndarray]:
  """Class logits [L, B, Q, C + 1] and mask logits [L, B, Q, h, w] of all predictions made."""
  import torch

  with torch.no_grad():
    predictions = _forward(model, *RUNS[run])
  masks, classes = (torch.stack(part).numpy() for part in zip(*predictions, strict=True))
  return {"class_logits": classes, "mask_logits": masks}


def losses(model) -> dict[str, np.ndarray]:
  """The losses of the run "masked" at our points, matches and all gradients.

  Returns:
    loss, losses [L, 3], query_of_target [L, B, T] and gradient/<name>.
  """
  data = batch()
  drawn, terms = points(), []
  query_of_target = np.full((QUERY_BLOCKS + 1, *data["classes"].shape), -1, np.int32)
  pairs_of_predictions = []

  def draws():
    for i in range(len(query_of_target)):
      yield from (points[None] for points in drawn["matching"][i])
      pairs = pairs_of_predictions[i]
      image = np.concatenate([np.full(len(query), b) for b, (query, _) in enumerate(pairs)])
      target = np.concatenate([target for _, target in pairs])
      yield from (drawn[name][i][image, target] for name in ("candidates", "fresh"))

  def note_terms(module, inputs, result):
    names = ("loss_cross_entropy", "loss_mask", "loss_dice")
    terms.append([result[name].item() for name in names])  # before they are weighted in place

  def note_pairs(module, inputs, result):
    pairs_of_predictions.append(result)

  hooks = (
    model.criterion.matcher.register_forward_hook(note_pairs),
    model.criterion.register_forward_hook(note_terms),
  )
  with mock.patch("torch.rand", _next_of(draws())):
    model.zero_grad()
    total = _forward(model, *RUNS["masked"], targets=data)
  for hook in hooks:
    hook.remove()
  total.backward()
  for matched, pairs in zip(query_of_target, pairs_of_predictions, strict=True):
    for row, (query, target) in zip(matched, pairs, strict=True):
      row[target] = query
  gradients = {f"gradient/{name}": p.grad.numpy() for name, p in model.named_parameters()}
  return {
    "loss": np.float32(total.item()),
    "losses": np.array(terms, np.float32),
    "query_of_target": query_of_target,
    **gradients,
  }


def points() -> dict[str, np.ndarray]:
  """The points that our criterion draws from the keys of `mask_criterion.image_keys`."""
  shape = (QUERY_BLOCKS + 1, *batch()["classes"].shape)
  return mask_criterion.our_points(POINT_SEED, shape, CRITERION)


def _forward(model, train: bool, probabilities: tuple[float, ...], targets=None):
  """The loss where there are targets, else (mask logits, class logits) of every prediction."""
  import torch
  from transformers.models.eomt_dinov3 import modeling_eomt_dinov3

  model.train(train)
  model.attn_mask_probs.copy_(torch.tensor(probabilities))
  image = torch.from_numpy(batch()["image"].transpose(0, 3, 1, 2).copy())
  rescale = lambda coordinates, **_: RESCALE * coordinates  # noqa: E731
  with mock.patch.object(modeling_eomt_dinov3, "augment_patches_center_coordinates", rescale):
    if targets is not None:
      return model(image, **_labels(targets)).loss
    predictions = []

    def predict(tokens):
      predictions.append(type(model).predict(model, tokens))
      return predictions[-1]

    with mock.patch.object(model, "predict", predict):
      model(image)
    return predictions


def _labels(data):
  import torch

  present = [row[row >= 0] for row in data["classes"]]
  masks = [
    torch.from_numpy((label[None] == row[:, None, None]).astype(np.float32))
    for label, row in zip(data["label"], present, strict=True)
  ]
  return {
    "mask_labels": masks,
    "class_labels": [torch.from_numpy(row.astype(np.int64)) for row in present],
  }


def _next_of(arrays):
  """A `torch.rand` that returns these arrays, one after the other."""
  import torch

  def rand(*shape, device=None):
    array = torch.from_numpy(np.array(next(arrays)))
    assert array.shape == shape, (array.shape, shape)
    return array

  return rand


def stored(arrays: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
  """Those of the results of `losses` that the file holds."""
  wanted = tuple(f"gradient/{name}" for name in GRADIENTS)
  return {
    name: array
    for name, array in arrays.items()
    if not name.startswith("gradient/") or name.startswith(wanted)
  }


def main() -> None:
  """Writes the file."""
  arrays = {"matching_points": np.floor(65536 * points()["matching"]).astype(np.uint16)}
  for kind in KINDS:
    model = build(kind)
    arrays[f"{kind}_names"] = np.frombuffer(json.dumps(names_of(model)).encode(), np.uint8)
    for run in RUNS:
      for name, value in outputs(model, run).items():
        arrays[f"{kind}_{run}_{name}"] = value if run == "masked" else value[-1:]
    arrays |= {f"{kind}_{name}": value for name, value in stored(losses(model)).items()}
  np.savez_compressed(FOLDER / "eomt_transformers.npz", **arrays)


if __name__ == "__main__":
  main()
