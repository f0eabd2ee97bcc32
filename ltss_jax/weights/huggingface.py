"""Names of Hugging Face's Mask2Former (with Swin or ResNet backbone) to the official ones.

Files on the hub and files that transformers 5 writes differ in the names of the backbone; both are
understood. Query, key and value are matrices of their own there and packed into one here.
"""

import re
from collections.abc import Mapping

import numpy as np

from ltss_jax.weights import imagenet
from ltss_jax.weights.conversion_report import Report

_PREDICTOR = "sem_seg_head.predictor"
_PIXEL_DECODER = "sem_seg_head.pixel_decoder"
# The last part names the parameter (weight, bias, ...), which stays.
_MODULES = (
  # Backbones; a Swin lies in `encoder` or in `encoder.swin`.
  (r"model\.pixel_level_module\.encoder\.(_backbone|timm_model)\.", "timm."),
  (r"model\.pixel_level_module\.encoder\.(swin\.)?", "encoder."),
  (r"encoder\.embeddings\.patch_embeddings\.projection", "backbone.patch_embed.proj"),
  (r"encoder\.embeddings\.norm", "backbone.patch_embed.norm"),
  (r"encoder\.hidden_states_norms\.stage(\d)", lambda m: f"backbone.norm{int(m[1]) - 1}"),
  (r"encoder\.encoder\.layers\.(\d+)\.downsample", r"backbone.layers.\1.downsample"),
  (r"encoder\.encoder\.layers\.(\d+)\.blocks\.(\d+)\.", r"backbone.layers.\1.blocks.\2."),
  (r"(blocks\.\d+)\.attention\.self\.(query|key|value)", r"\1.attn.\2"),
  (
    r"(blocks\.\d+)\.attention\.(q|k|v)_proj",
    lambda m: f"{m[1]}.attn.{ {'q': 'query', 'k': 'key', 'v': 'value'}[m[2]] }",
  ),
  (r"(blocks\.\d+)\.attention\.(self|relative_position_bias)$", r"\1.attn"),
  (r"(blocks\.\d+)\.attention\.(output\.dense|o_proj)", r"\1.attn.proj"),
  (r"(blocks\.\d+)\.layernorm_before", r"\1.norm1"),
  (r"(blocks\.\d+)\.layernorm_after", r"\1.norm2"),
  (r"(blocks\.\d+)\.intermediate\.dense", r"\1.mlp.fc1"),
  (r"(blocks\.\d+)\.output\.dense", r"\1.mlp.fc2"),
  (r"encoder\.embedder\.embedder", "backbone.stem.conv1"),
  (
    r"encoder\.encoder\.stages\.(\d)\.layers\.(\d+)\.layer\.(\d)",
    lambda m: f"backbone.res{int(m[1]) + 2}.{m[2]}.conv{int(m[3]) + 1}",
  ),
  (
    r"encoder\.encoder\.stages\.(\d)\.layers\.(\d+)\.shortcut",
    lambda m: f"backbone.res{int(m[1]) + 2}.{m[2]}.shortcut",
  ),
  (r"\.convolution$", ""),
  (r"\.normalization$", ".norm"),
  # Pixel decoder.
  (r"model\.pixel_level_module\.decoder\.input_projections", f"{_PIXEL_DECODER}.input_proj"),
  (r"model\.pixel_level_module\.decoder\.mask_projection", f"{_PIXEL_DECODER}.mask_features"),
  (
    r"model\.pixel_level_module\.decoder\.(adapter_1|layer_1)\.([01])",
    lambda m: f"{_PIXEL_DECODER}.{m[1]}{'.norm' if m[2] == '1' else ''}",
  ),
  (
    r"model\.pixel_level_module\.decoder\.encoder\.layers",
    f"{_PIXEL_DECODER}.transformer.encoder.layers",
  ),
  (r"model\.pixel_level_module\.decoder$", f"{_PIXEL_DECODER}.transformer"),  # level_embed
  (r"(encoder\.layers\.\d+)\.self_attn_layer_norm", r"\1.norm1"),
  (r"(encoder\.layers\.\d+)\.final_layer_norm", r"\1.norm2"),
  (r"(encoder\.layers\.\d+)\.fc([12])", r"\1.linear\2"),
  # Transformer decoder.
  (r"model\.transformer_module\.queries_embedder", f"{_PREDICTOR}.query_embed"),
  (r"model\.transformer_module\.queries_features", f"{_PREDICTOR}.query_feat"),
  (r"model\.transformer_module\.level_embed", f"{_PREDICTOR}.level_embed"),
  (r"model\.transformer_module\.decoder\.layernorm", f"{_PREDICTOR}.decoder_norm"),
  (
    r"model\.transformer_module\.decoder\.mask_predictor\.mask_embedder\.(\d)\.0",
    rf"{_PREDICTOR}.mask_embed.layers.\1",
  ),
  (
    r"model\.transformer_module\.decoder\.layers\.(\d+)\.(self|cross)_attn_layer_norm",
    rf"{_PREDICTOR}.transformer_\2_attention_layers.\1.norm",
  ),
  (
    r"model\.transformer_module\.decoder\.layers\.(\d+)\.self_attn",
    rf"{_PREDICTOR}.transformer_self_attention_layers.\1.self_attn",
  ),
  (
    r"model\.transformer_module\.decoder\.layers\.(\d+)\.cross_attn",
    rf"{_PREDICTOR}.transformer_cross_attention_layers.\1.multihead_attn",
  ),
  (
    r"model\.transformer_module\.decoder\.layers\.(\d+)\.final_layer_norm",
    rf"{_PREDICTOR}.transformer_ffn_layers.\1.norm",
  ),
  (
    r"model\.transformer_module\.decoder\.layers\.(\d+)\.fc([12])",
    rf"{_PREDICTOR}.transformer_ffn_layers.\1.linear\2",
  ),
  (r"class_predictor", f"{_PREDICTOR}.class_embed"),
)
_PATTERNS = tuple((re.compile(pattern), replacement) for pattern, replacement in _MODULES)
# The backbone as a classifier ends in a norm that Mask2Former does not use.
_UNUSED = re.compile(r"model\.pixel_level_module\.encoder\.(swin\.)?layernorm\.")
_PACKED = re.compile(
  r"(?P<block>backbone\..*\.attn)\.(?P<backbone>query|key|value)\.(?P<leaf>weight|bias)"
  r"|(?P<layer>.*attn)\.(?P<decoder>q|k|v)_proj\.(?P<decoder_leaf>weight|bias)"
)


def to_official(
  arrays: Mapping[str, np.ndarray], done: Report | None = None
) -> dict[str, np.ndarray]:
  """Renames and packs the arrays of a Mask2FormerForUniversalSegmentation.

  Args:
    arrays: its state dict, or what `save_pretrained` wrote.
    done: lists what was dropped, where it is given.

  Returns:
    official name -> array in official layout. Names that are not known stay as they are.

  Raises:
    ValueError: one of query, key and value is missing.
  """
  official, parts = {}, {}
  for name, array in arrays.items():
    if _UNUSED.match(name):
      if done is not None:
        done.dropped.append(name)
      continue
    name = _renamed(name)
    match = _PACKED.fullmatch(name)
    if match is None:
      official[name] = array
    elif match["block"]:
      whole = f"{match['block']}.qkv.{match['leaf']}"
      parts.setdefault(whole, {})[match["backbone"][0]] = array
    else:
      whole = f"{match['layer']}.in_proj_{match['decoder_leaf']}"
      parts.setdefault(whole, {})[match["decoder"]] = array
  for whole, part in parts.items():
    if set(part) != {"q", "k", "v"}:
      missing = sorted({"q", "k", "v"} - set(part))
      raise ValueError(f"{whole} is packed from q, k and v; the checkpoint has no {missing}")
    official[whole] = np.concatenate([part["q"], part["k"], part["v"]])
  return official


def _renamed(name: str) -> str:
  module, _, leaf = name.rpartition(".")
  for pattern, replacement in _PATTERNS:
    module = pattern.sub(replacement, module)
  if module.startswith("timm."):
    return "backbone." + imagenet.torchvision_to_official(f"{module.removeprefix('timm.')}.{leaf}")
  return f"{module}.{leaf}"
