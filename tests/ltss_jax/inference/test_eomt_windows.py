"""EoMT through its windows against the published PyTorch model, on an image of 97 x 131 px."""

import jax
import numpy as np

from configs import ade20k
from input_pipeline import inference_batches
from ltss_jax import build, mesh as mesh_lib
from ltss_jax.inference import stream
from ltss_jax.weights import official
from tests.golden import eomt_parameters
from tests.programs import GOLDEN

NAMES = "eomt_dinov2_s_150_names.json"
# In released files beside the weights.
BUFFERS = ("attn_mask_probs", "pixel_mean", "pixel_std", "empty_weight")


def weights(architecture):
  """The golden parameters, on the device."""
  arrays = {
    name.removeprefix("network.").removeprefix("encoder."): array
    for name, array in eomt_parameters.eomt_state(NAMES).items()
    if not name.endswith(BUFFERS)
  }
  abstract = jax.eval_shape(architecture.init, jax.random.key(0))
  return jax.device_put(official.load_official("eomt", *abstract, arrays))


def test_labels_and_scores_of_an_odd_image_equal_the_published_ones():
  config = ade20k.get_config("model=eomt,backbone=dinov2_s")
  config.data.crop_size = config.eval.min_size = 128
  architecture = build.build_architecture(config, num_classes=150)
  predictor = build.build_predictor(config, architecture, mesh_lib.data_mesh(jax.devices()[:1]), ())
  golden, options = np.load(GOLDEN / "eomt_dinov2_s.npz"), config.eval
  batch = inference_batches.single_batch(
    golden["odd_image"], options.min_size, options.max_size, half_even=options.round_half_even
  )
  assert batch.image.shape == (1, 128, 173, 3)  # two windows
  state = weights(architecture)
  (one,) = stream.predictions(predictor, *state, [batch])
  assert (one.label_map == golden["odd_argmax"]).mean() > 0.999
  assert len(np.unique(one.label_map)) > 10
  (scores,) = predictor.scores(*state, batch.image, [one.label_map.shape])
  y, x = golden["odd_pixels"].T
  # Float32 on both sides, of values up to 3.7; seen: 1.2e-5.
  np.testing.assert_allclose(scores[:, y, x].T, golden["odd_scores_at_pixels"], atol=1e-4)
