"""A folder of your own: images/{train,val}, annotations/{train,val} (label PNGs) and classes.txt.

Paper     none.
Command   python main.py --config=configs/folder.py --config.data.root=DIR
Hardware  2 CPU cores are enough for some hundred photographs of 320 x 240 px; for
          backbone=resnet50 and larger sets an accelerator.
Time      about 5 minutes for 96 photographs of 320 x 240 px on 2 CPU cores.
Expected  val mIoU of at least 40 % on such photographs of streets, with 11 classes.
Measured  mIoU 44.3 after 1,440 steps, seed 0, on 2 cores of a shared machine; 45.9 with
          data.exact_pixels=True.

Crop, scale and number of steps follow from the images (`configs/derive.py` has the rule); images
are tested at their native size. The command runs a small DeepLabV3+ that starts from random
weights; `model=mask2former` is a small Mask2Former. `backbone=resnet50` is the released system's;
with Mask2Former it wants ImageNet weights (`--config.init.checkpoint=DIR`) and is trained as
published. `method=` takes rfs, copy_paste, seesaw, frequency_matcher (not DeepLabV3+) and
combinations (`method=rfs+copy_paste`); docs/study.md says how to find out what helps on your data.
"""

import ml_collections

from configs import common


def _deeplabv3plus(config: ml_collections.ConfigDict) -> None:
  config.loss.hard_pixel_fraction = 1.0  # mining only pays where most pixels are easy already
  config.optimizer.learning_rate = 0.05
  config.optimizer.warmup_steps = 50


def get_config(variants: str = "") -> ml_collections.ConfigDict:
  """Returns the config; variants as in `common.VARIANTS`."""
  config = common.get_config()
  config.batch_size = 4  # a small data set gains more from many updates than from large batches
  config.data.name = "folder"
  config.data.crop_size = 0
  config.data.base_size = 0
  # What the release draws from, 0.5 to 2 and colours too, takes longer to learn than a CPU has.
  config.data.min_factor = 0.8
  config.data.max_factor = 1.5
  config.data.color_jitter = False
  config.data.num_workers = 2
  config.train.log_every_steps = 20
  config.eval.every_steps = 0
  config.eval.min_size = 0
  config.checkpoint.every_steps = 0
  return common.apply_variants(
    config,
    variants,
    defaults={"model": "deeplabv3plus", "backbone": "resnet_small"},
    recipes={"model": common.SHORT_TRAINING | {"deeplabv3plus": _deeplabv3plus}},
  )
