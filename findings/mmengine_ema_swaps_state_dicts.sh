#!/usr/bin/env bash
# MMEngine's EMAHook saves the average of the weights as "state_dict" and the trained weights as
# "ema_state_dict": the names say the opposite. Who looks for an average in a checkpoint of such a
# training and takes "ema_state_dict" gets the weights without averaging.
#
# Seen with MMEngine 0.10.7 and torch 2.13.0: a weight that two steps take from 0 to 1 and 2 has the
# average 0.75 * 1 + 0.25 * 2 = 1.25 under momentum 0.25. The file has 1.25 as "state_dict" and 2 as
# "ema_state_dict".
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet --disable-pip-version-check \
  mmengine-lite==0.10.7 torch==2.13.0 numpy==2.4.6 packaging==25.0 matplotlib==3.11.2 \
  opencv-python-headless==5.0.0.93
cd "$folder"
"$folder/venv/bin/python" - <<'PYTHON'
import torch
from mmengine.model import BaseModel
from mmengine.runner import Runner


class Rising(BaseModel):
  """One weight, whose gradient is always -1."""

  def __init__(self):
    super().__init__()
    self.w = torch.nn.Parameter(torch.zeros(()))

  def forward(self, x, mode):
    return {"loss": x.sum() - self.w}


data = torch.utils.data.DataLoader([{"x": torch.zeros(1)}] * 2)
Runner(
  model=Rising(),
  work_dir="run",
  train_dataloader=data,
  train_cfg={"by_epoch": True, "max_epochs": 1},
  optim_wrapper={"optimizer": {"type": "SGD", "lr": 1.0}},
  custom_hooks=[{"type": "EMAHook", "momentum": 0.25}],
  log_level="ERROR",
).train()
saved = torch.load("run/epoch_1.pth", weights_only=False)
values = float(saved["state_dict"]["w"]), float(saved["ema_state_dict"]["module.w"])
print("state_dict %g, ema_state_dict %g" % values)
assert values == (1.25, 2.0)
PYTHON
