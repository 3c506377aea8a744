"""The training of the 1998 paper, as keys of a config."""

from ml_collections import ConfigDict

RATE, SAMPLES = 5e-4, 500  # of a step; of the training set
BOUNDARIES, FACTORS = (2, 5, 8, 12), (0.4, 0.2, 0.1, 0.02)


def train_as_published(config: ConfigDict, batch_size: int = 2, mu: float = 0.02) -> None:
    """Sets the keys to 20 passes of stochastic diagonal Levenberg–Marquardt over all images.

    The paper takes a step for each image. Here a step at the published rate has the mean gradient
    of two: with single images most of the networks diverge, see docs/lenet_1998.md.

    Args:
      config: changed in place; the network, its loss and its images' size stay.
      batch_size: images per step; that of the paper is 1.
      mu: bounds the rates to `RATE` / mu. The published 0.02 suits `squashed_mse`. The loss `map`
        of `lenet5_1998` needs more: its probabilities are near 0 and 1 at first, where the
        curvature in the logits vanishes but the gradients do not, and it diverges.

    Source: LeCun et al., "Gradient-based learning applied to document recognition" (1998), section
    III.B, and appendix C.
    """
    config.update(
        data={"valid_examples": 0},
        train={
            **{"num_epochs": 20, "normalize": "lenet_1998"},
            **{"batch_size": batch_size, "micro_batch_size": batch_size},
        },
        optimizer={
            **{"name": "diagonal_lm", "learning_rate": RATE, "weight_decay": 0.0},
            **{"mu": mu, "samples": SAMPLES},
        },
        schedule={"name": "piecewise", "boundaries": BOUNDARIES, "factors": FACTORS},
    )
