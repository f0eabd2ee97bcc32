"""EoMT: a plain ViT whose last blocks also carry queries, which become masks and their classes.

Kerssies et al., "Your ViT is Secretly an Image Segmentation Model", CVPR 2025.
"""

import dataclasses
import math
from typing import NamedTuple

import jax
import jax.numpy as jnp
from flax import nnx

from ltss_jax.models import dino, functional, initializers, layers, mask2former, position
from ltss_jax.models.attention import mlp_layers
from ltss_jax.models.backbones import BackboneConfig
from ltss_jax.models.vit import ConvTransposePatch

_OUTPUT_STRIDE = 4  # of the masks


@dataclasses.dataclass(frozen=True)
class EomtConfig:
  """Shape of an EoMT.

  Attributes:
    num_classes: C, without the ignore label.
    backbone: the encoder, one of `dino.CONFIGS`.
    crop_size: S, side of the square images in pixels.
    num_queries: Q.
    num_blocks: n, the last blocks, which carry the queries.
    class_head: a key of `mask2former.CLASS_HEADS`.
    dtype: compute dtype; the tokens' residual stream and all logits are float32.
    remat: recompute blocks and predictions in the backward pass.
    scan_blocks: in training, run the blocks in front of the queries as one loop.
  """

  num_classes: int
  backbone: BackboneConfig
  crop_size: int
  num_queries: int
  num_blocks: int
  class_head: str
  dtype: str
  remat: bool
  scan_blocks: bool


class Predictions(NamedTuple):
  """What the model returns, float32.

  Attributes:
    class_logits: [L, B, Q, outputs]; the last prediction is the final one.
    mask_logits: [L, B, S / 4, S / 4, Q].
  """

  class_logits: jax.Array
  mask_logits: jax.Array


class Upscale(nnx.Module):
  """Twice the resolution: transposed convolution, exact GELU, 3x3 depthwise convolution, norm."""

  def __init__(self, channels: int, *, dtype: jnp.dtype, rngs: nnx.Rngs):
    kw = dict(dtype=dtype, rngs=rngs)
    self.conv1 = ConvTransposePatch(channels, 2, **kw)
    self.conv2 = DepthwiseConv3x3(channels, **kw)
    self.norm = layers.layer_norm(channels, 1e-6, **kw)

  def __call__(self, x: jax.Array) -> jax.Array:
    """[B, h, w, C] -> [B, 2 h, 2 w, C]."""
    return self.norm(self.conv2(layers.gelu(self.conv1(x))))


class DepthwiseConv3x3(nnx.Module):
  """One 3x3 kernel for each channel, padding 1, no bias.

  Sums of shifted products: XLA's grouped convolutions take many times as long on CPUs. The products
  of a column of the kernel are added before they are shifted, which takes two thirds of the time of
  nine products that are shifted both ways.
  """

  def __init__(self, channels: int, *, dtype: jnp.dtype, rngs: nnx.Rngs):
    self.kernel = nnx.Param(initializers.torch_uniform(9)(rngs.params(), (3, 3, 1, channels)))
    self.dtype = dtype

  def __call__(self, x: jax.Array) -> jax.Array:
    """[B, h, w, C] -> the same."""
    height, width = x.shape[1:3]
    kernel = self.kernel[...].astype(self.dtype)
    x = jnp.pad(x, ((0, 0), (1, 1), (1, 1), (0, 0)))
    columns = [
      sum(x[:, row : row + height] * kernel[row, column, 0] for row in range(3))
      for column in range(3)
    ]
    return sum(part[:, :, i : i + width] for i, part in enumerate(columns))


class Eomt(nnx.Module):
  """Encoder, queries and the heads that predict from both."""

  def __init__(self, config: EomtConfig, *, rngs: nnx.Rngs):
    encoder = dino.CONFIGS[config.backbone.name]
    if not 1 <= config.num_blocks <= encoder.depth:
      raise ValueError(
        f"num_blocks={config.num_blocks}: {config.backbone.name} has {encoder.depth} blocks"
      )
    channels, dtype = encoder.channels, jnp.dtype(config.dtype)
    kw = dict(dtype=dtype, rngs=rngs)
    self.config = config
    self.backbone = dino.build(config.backbone.name, config.crop_size, **kw)
    self.q = nnx.Embed(
      config.num_queries, channels, embedding_init=initializers.normal(1.0), rngs=rngs
    )
    self.class_head = layers.Linear(
      channels,
      config.num_classes + mask2former.CLASS_HEADS[config.class_head].num_others,
      kernel_init=initializers.torch_uniform(channels),
      bias_init=initializers.torch_uniform(channels),
      **kw,
    )
    self.mask_head = mlp_layers((channels,) * 4, **kw)
    upscalings = max(1, int(math.log2(encoder.patch / _OUTPUT_STRIDE)))
    self.upscale = nnx.List(Upscale(channels, **kw) for _ in range(upscalings))

  def __call__(
    self,
    image: jax.Array,
    mask_probabilities: jax.Array | None = None,
    *,
    train: bool,
    rngs: nnx.Rngs | None = None,
  ) -> Predictions:
    """Predicts masks and their classes.

    Args:
      image: [B, S, S, 3] float32, normalised.
      mask_probabilities: [n], share of the queries that see in each of the last blocks only the
        patches that their mask covers; None for no masks.
      train: whether to predict in front of each of the last blocks too.
      rngs: `rngs.dropout` draws the masked queries, and in training the scale of rotary positions.

    Returns:
      n + 1 predictions in training or with masks, else the final one.
    """
    num_free = len(self.backbone.blocks) - self.config.num_blocks
    is_final_only = not train and mask_probabilities is None
    trains_backbone = train and not self.config.backbone.frozen
    rotation = self.backbone.rotation(image, rngs if trains_backbone else None)
    x = self.backbone.embed(image)
    x = self._run_free(self.backbone.blocks[:num_free], x, rotation, train)
    queries = jnp.broadcast_to(self.q.embedding[...], (x.shape[0], *self.q.embedding.shape))
    x = jnp.concatenate([queries, x], axis=1)  # [B, Q + prefix + N, C]
    predictions = []
    for i, block in enumerate(self.backbone.blocks[num_free:]):
      mask = None
      if not is_final_only:
        predictions.append(self._predict(x))
        if mask_probabilities is not None:
          mask = self._attention_mask(predictions[-1][1], mask_probabilities[i], x.shape[1], rngs)
      x = self._run(lambda block, x, mask: block(x, mask, rotation), block, x, mask)
    predictions.append(self._predict(x))
    return Predictions(*(jnp.stack(part) for part in zip(*predictions, strict=True)))

  def _run(self, function, module: nnx.Module, *inputs):
    """function(module, *inputs); with remat the backward pass computes its insides anew."""
    return (nnx.remat(function) if self.config.remat else function)(module, *inputs)

  def _run_free(
    self, blocks: list[nnx.Module], x: jax.Array, rotation: position.Rotation | None, train: bool
  ) -> jax.Array:
    """The blocks in front of the queries; as a loop they are compiled once, not one by one."""
    if not (train and self.config.scan_blocks and blocks):
      for block in blocks:
        x = self._run(lambda block, x: block(x, None, rotation), block, x)
      return x
    graphdef, _ = nnx.split(blocks[0])
    stacked = jax.tree.map(lambda *leaves: jnp.stack(leaves), *[nnx.state(b) for b in blocks])

    def body(x, state):
      return nnx.merge(graphdef, state)(x, None, rotation), None

    return jax.lax.scan(jax.checkpoint(body) if self.config.remat else body, x, stacked)[0]

  def _predict(self, x: jax.Array) -> tuple[jax.Array, jax.Array]:
    """Tokens [B, Q + prefix + N, C] -> class logits [B, Q, outputs], mask logits [B, h, w, Q]."""
    return self._run(lambda model, x: model._heads(x), self, x)

  def _heads(self, x: jax.Array) -> tuple[jax.Array, jax.Array]:
    y = self.backbone.norm(x)
    queries, patches = y[:, : self.config.num_queries], y[:, self._num_others :]
    class_logits = self.class_head(queries)
    embeddings = queries
    for i, layer in enumerate(self.mask_head):
      embeddings = layer(embeddings if i == 0 else layers.gelu(embeddings))
    side = math.isqrt(patches.shape[1])
    features = patches.reshape(y.shape[0], side, side, -1)
    for layer in self.upscale:
      features = layer(features)
    kw = dict(preferred_element_type=jnp.float32)
    mask_logits = jnp.einsum("bqc,bhwc->bhwq", embeddings, features, **kw)
    return class_logits.astype(jnp.float32), mask_logits

  @property
  def _num_others(self) -> int:
    """Tokens in front of the patches, where there are queries."""
    return self.config.num_queries + dino.NUM_PREFIX

  def _attention_mask(
    self, mask_logits: jax.Array, probability: jax.Array, num_tokens: int, rngs: nnx.Rngs
  ) -> jax.Array:
    """What every token may look at, [B, 1, T, T]: all that a query's mask leaves out is barred.

    Args:
      mask_logits: [B, h, w, Q] of the prediction in front of the block.
      probability: share of the queries that are masked, drawn one by one.
      num_tokens: T.
      rngs: `rngs.dropout` draws them.
    """
    num_queries = self.config.num_queries
    side = math.isqrt(num_tokens - self._num_others)
    inside = layers.resize_bilinear(jax.lax.stop_gradient(mask_logits), side, side) > 0
    inside = inside.reshape(len(inside), -1, num_queries).swapaxes(1, 2)  # [B, Q, N]
    masked = jax.random.uniform(rngs.dropout(), inside.shape[:2]) < probability
    free = jnp.ones((inside.shape[0], num_tokens, num_tokens), bool)
    mask = free.at[:, :num_queries, self._num_others :].set(inside | ~masked[..., None])
    return mask[:, None]


def functions(config: EomtConfig) -> functional.Functional:
  """The model as pure functions."""
  return functional.functional(lambda rngs: Eomt(config, rngs=rngs))
