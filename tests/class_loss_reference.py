"""The formulas of the papers in float64, for one prediction: the judge of all class losses."""

import numpy as np


def of_prediction(loss, logits, label):
  """(value, weight) of a loss, but for Seesaw, whose definition is in test_seesaw.py.

  Args:
    loss: class loss.
    logits: [C] or [C + 1], the last is no object.
    label: index into them.
  """
  logits, weight = np.asarray(logits, np.float64), 1.0
  if loss.name in ("balanced_softmax", "logit_adjustment"):
    tau = loss.logit_adjustment_tau if loss.name == "logit_adjustment" else 1
    logits = logits + tau * np.append(loss.log_prior, 0.0)[: len(logits)]
  p = np.exp(logits - logits.max())
  p /= p.sum()
  value = -np.log(p[label])
  if loss.name == "focal":
    value *= (1 - p[label]) ** loss.focal_gamma
  if loss.name == "class_balanced":
    weight = np.append(loss.class_weights, 1.0)[label]
  return value, weight
