"""A network of one's own, with dropout and batch normalisation, for `config.model.name`.

    python -m lenet_jax.main --config=configs/notes.py --workdir=runs/own
        --config.model.name=examples/own_network.py:Net

Any `nnx.Module` from normalised images to logits will do. Its constructor is given `image_shape`,
`num_classes` and `rngs`; the other arguments are config keys: `--config.model.width=32`.
"""

import jax
from flax import nnx


class Net(nnx.Module):
    """One 3×3 convolution, batch normalisation, pooling, dropout, and a linear layer."""

    def __init__(self, *, image_shape, num_classes, rngs, width: int = 16, dropout: float = 0.2):
        height, width_, channels = image_shape
        self.conv = nnx.Conv(channels, width, (3, 3), rngs=rngs)
        self.norm = nnx.BatchNorm(width, rngs=rngs)
        self.dropout = nnx.Dropout(dropout, rngs=rngs)
        self.linear = nnx.Linear((height // 2) * (width_ // 2) * width, num_classes, rngs=rngs)

    def __call__(self, images: jax.Array) -> jax.Array:
        """Logits (b, k) of normalised images (b, h, w, c)."""
        x = nnx.relu(self.norm(self.conv(images)))
        x = nnx.max_pool(x, (2, 2), strides=(2, 2))
        return self.linear(self.dropout(x.reshape(x.shape[0], -1)))
