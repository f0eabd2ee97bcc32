"""ADE20K: 150 classes, 20,210 training and 2,000 validation images.

Paper     "Frequency-based Matcher for Long-tailed Semantic Segmentation" (IEEE TMM 2024),
          with Mask2Former (CVPR 2022); the release's recipe maskformer2_R50_bs16_160k.
Command   python main.py --config=configs/ade20k.py --config.init.checkpoint=DIR
Hardware  not run here; the batch of 16 crops of 512 px wants one large accelerator or several.
Time      not run here.
Expected  mIoU 47.2 in the release, from ImageNet weights.
Status    not run: the images are licensed and have to be brought by the user.

`ade20k.py:model=deeplabv3plus` is the release's recipe deeplabv3p_R50_bs16_160k, for
which no number is at hand.

Every published recipe starts from ImageNet weights: `--config.init.checkpoint=DIR`, a directory
that `python -m ltss_jax.convert` made of them. Without it the backbone starts from random ones.

Released recipes of other backbones, each with Mask2Former and 160,000 updates:
  backbone=resnet101  trained batch norm. (The release calls it 90k; it runs 160k.)
  backbone=swin_t, swin_s  nothing else changes.
  backbone=swin_b, swin_l  crops of 640 px, test images of 640 px; 12 x 12 windows.
  backbone=vit_b  crops of 640 px, test images of 640 px; weights of a masked autoencoder.

`model=eomt` is the release of EoMT (CVPR 2025), which has ADE20K's own recipe: `backbone=dinov2_l`
(default; 58.4 mIoU there, 39,153 updates) and `backbone=dinov3_l` (59.5, 20,208 updates), here with
this project's augmentation; the other sizes in proportion. Its weights are DINO's (docs/eomt.md).

`method=` takes rfs, copy_paste, seesaw, frequency_matcher and combinations (`method=rfs+seesaw`).
rfs is the release's recipe rfs-maskformer2_R50_bs16_160k: frequencies at pixel level, t = 0.001. It
has none for the others: t is the frequency of the rare/common border.
"""

import ml_collections

from configs import common


def _large_swin(config: ml_collections.ConfigDict) -> None:
  common.crops_of_640(config)
  config.eval.every_steps = 5_000


def _rfs(config: ml_collections.ConfigDict) -> None:
  config.data.repeat_level = "pixel"
  config.data.repeat_threshold = 0.001


def get_config(variants: str = "") -> ml_collections.ConfigDict:
  """Returns the config; variants as in `common.VARIANTS`."""
  config = common.get_config()
  config.data.name = "ade20k"
  config.train.steps = 160_000
  recipes = {
    "model": {"eomt": common.passes(20_210)},
    "backbone": {
      "swin_b": _large_swin,
      "swin_l": _large_swin,
      "vit_b": common.crops_of_640,
    },
    "method": {"rfs": _rfs},
  }
  return common.apply_variants(config, variants, recipes=recipes)
