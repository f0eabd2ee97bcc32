"""DeepLabV3+ with hard pixel mining."""

from jax.sharding import Mesh
from jax.typing import ArrayLike

from ltss_jax.architectures import per_pixel
from ltss_jax.architectures.architecture import Architecture, ArchitectureSpec, Objective
from ltss_jax.architectures.per_pixel import PixelLossConfig
from ltss_jax.models import deeplabv3plus
from ltss_jax.models.deeplabv3plus import DeepLabV3PlusConfig


def architecture(
  config: DeepLabV3PlusConfig, inference_log_prior: ArrayLike | None = None
) -> Architecture:
  """DeepLabV3+ for inference; arguments as `ArchitectureSpec.architecture` has them."""
  model = deeplabv3plus.functions(config)
  return per_pixel.architecture(
    model, config.num_classes, deeplabv3plus.full_resolution, inference_log_prior
  )


def objective(
  config: DeepLabV3PlusConfig, loss_config: PixelLossConfig, mesh: Mesh | None = None
) -> Objective:
  """DeepLabV3+ for training; the loss is one computation over the global batch, on any mesh."""
  del mesh
  return per_pixel.objective(
    deeplabv3plus.functions(config),
    config.num_classes,
    deeplabv3plus.full_resolution,
    loss_config,
    decays=lambda path: "/norm/" not in path,
  )


_HEAD = "sem_seg_head/decoder"
SPEC = ArchitectureSpec(
  functions=deeplabv3plus.functions,
  model_config=DeepLabV3PlusConfig,
  loss_config=PixelLossConfig,
  architecture=architecture,
  objective=objective,
  prior="pixels",
  official_names=(
    (r"^aspp/image_pool", f"{_HEAD}/res5/project_conv/convs/4/1"),
    (r"^aspp/branches/", f"{_HEAD}/res5/project_conv/convs/"),
    (r"^aspp/project", f"{_HEAD}/res5/project_conv/project"),
    (r"^low_level", f"{_HEAD}/res2/project_conv"),
    (r"^fuse/", f"{_HEAD}/res2/fuse_conv/"),
    (r"^classifier", "sem_seg_head/predictor"),
  ),
  class_layers=("classifier",),
  class_counts=per_pixel.COUNTS,
)
