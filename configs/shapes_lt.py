"""shapes_lt: the embedded data set, drawn on first use; what `make demo` trains on.

Paper     none: drawn scenes whose classes follow a long tail, as in "Frequency-based Matcher for
          Long-tailed Semantic Segmentation" (IEEE TMM 2024).
Command   python main.py --config=configs/shapes_lt.py --workdir=runs/demo
Hardware  2 CPU cores.
Time      3 to 6 minutes in all, by machine: drawing, training, evaluating.
Expected  val mIoU of at least 40 %, mIoU of the rare classes (by image) between 3 and 25 %.
Measured  seed 0, on a shared machine; rare, common, frequent by image and by pixel:
          mask2former    50.6 (11.1 25.5 69.5; 10.7 15.5 72.9) on two cores
                         49.4 (10.7 26.5 67.4; 1.5 23.6 70.8) on one, which rounds otherwise
                         44.3 (4.9 12.7 65.3; 4.8 6.8 67.3) on two cores of another machine
          deeplabv3plus  48.2 (3.4 28.1 66.8; 3.4 25.1 67.8) on one
          eomt           39.5 (0.0 10.9 59.6; 0.0 3.0 62.2), two runs at a time on two cores

The command runs a small Mask2Former; `shapes_lt.py:model=deeplabv3plus` is a small DeepLabV3+,
`model=eomt` a small EoMT. `method=` takes rfs, copy_paste, seesaw, frequency_matcher (not with
DeepLabV3+) and combinations (`method=rfs+copy_paste`); `make study` compares them.

Images vary around 128 to 192 px; they are trained near and tested at their native size. The network
is small and starts from random weights.
"""

import ml_collections

from configs import common


def _deeplabv3plus(config: ml_collections.ConfigDict) -> None:
  config.optimizer.name = "adamw"
  config.optimizer.learning_rate = 4e-3
  config.optimizer.warmup_steps = 50
  config.optimizer.weight_decay = 0.01


def get_config(variants: str = "") -> ml_collections.ConfigDict:
  """Returns the config; variants as in `common.VARIANTS`."""
  config = common.get_config()
  config.data.name = "shapes_lt"
  config.batch_size = 8
  config.data.crop_size = 128
  config.data.base_size = 152  # about the mean shorter side
  config.data.min_factor = 0.7
  config.data.max_factor = 1.5
  config.data.color_jitter = False  # hues tell classes apart here
  config.data.num_workers = 2
  config.train.steps = 800
  config.train.log_every_steps = 20
  config.train.log_images_every_steps = 400
  config.eval.every_steps = 400
  config.eval.min_size = 0
  config.eval.batch_size = 16
  config.checkpoint.every_steps = 200
  return common.apply_variants(
    config,
    variants,
    defaults={"model": "mask2former", "backbone": "resnet_small"},
    recipes={"model": common.SHORT_TRAINING | {"deeplabv3plus": _deeplabv3plus}},
  )
