"""DeepLabV3+ with hard pixel mining."""

from ltss_jax.architectures import per_pixel
from ltss_jax.models import deeplabv3plus

_HEAD = "sem_seg_head/decoder"
SPEC = per_pixel.spec(
  deeplabv3plus.functions,
  deeplabv3plus.DeepLabV3PlusConfig,
  deeplabv3plus.full_resolution,
  official_names=(
    (r"^aspp/image_pool", f"{_HEAD}/res5/project_conv/convs/4/1"),
    (r"^aspp/branches/", f"{_HEAD}/res5/project_conv/convs/"),
    (r"^aspp/project", f"{_HEAD}/res5/project_conv/project"),
    (r"^low_level", f"{_HEAD}/res2/project_conv"),
    (r"^fuse/", f"{_HEAD}/res2/fuse_conv/"),
    (r"^classifier", "sem_seg_head/predictor"),
  ),
  class_layer="classifier",
)
