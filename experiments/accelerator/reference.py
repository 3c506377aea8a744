"""LeNet's layers and their gradients in float64 NumPy, written without the package.

Every sum has its terms in a fixed order, element by element, so that equal windows have equal sums
and ties are ties. Of equal maxima the first in reading order wins.
"""

from typing import Any, NamedTuple

import numpy as np

Arrays = dict[str, np.ndarray]


class ConvPoolRelu(NamedTuple):
    """What a convolution, a 2×2 max-pool, a bias and a ReLU give, forward and backward.

    Attributes:
      output: (b, h2, w2, k).
      winner: (b, h2, w2, k): which of the four pixels of a block, in reading order, is the maximum.
      tied: (b, h2, w2, k): whether another one equals it.
      dx, dkernel, dbias: gradients of the sum of `output` times the cotangent.
    """

    output: np.ndarray
    winner: np.ndarray
    tied: np.ndarray
    dx: np.ndarray
    dkernel: np.ndarray
    dbias: np.ndarray


def conv_pool_relu(
    x: np.ndarray, kernel: np.ndarray, bias: np.ndarray, cotangent: np.ndarray
) -> ConvPoolRelu:
    """The layer for images (b, h, w, c) and a kernel (s, s, c, k), and its gradients."""
    x, kernel, bias, cotangent = (np.asarray(a, np.float64) for a in (x, kernel, bias, cotangent))
    b, height, width, channels = x.shape
    size, _, _, k = kernel.shape
    h, w = height - size + 1, width - size + 1
    taps = [(i, j) for i in range(size) for j in range(size)]

    convolved = np.zeros((b, h, w, k))
    for i, j in taps:
        for c in range(channels):
            convolved += x[:, i : i + h, j : j + w, c, None] * kernel[i, j, c]
    blocks = convolved.reshape(b, h // 2, 2, w // 2, 2, k).transpose(0, 1, 3, 5, 2, 4)
    blocks = blocks.reshape(b, h // 2, w // 2, k, 4)
    winner = blocks.argmax(axis=-1)
    before_relu = blocks.max(axis=-1) + bias
    pooled_gradient = np.where(before_relu > 0, cotangent, 0)

    spread = pooled_gradient[..., None] * (winner[..., None] == np.arange(4))
    spread = spread.reshape(b, h // 2, w // 2, k, 2, 2).transpose(0, 1, 4, 2, 5, 3)
    gradient = spread.reshape(b, h, w, k)
    dx, dkernel = np.zeros_like(x), np.zeros_like(kernel)
    flat = gradient.reshape(-1, k)
    for i, j in taps:
        dx[:, i : i + h, j : j + w] += gradient @ kernel[i, j].T
        dkernel[i, j] = x[:, i : i + h, j : j + w].reshape(-1, channels).T @ flat
    dbias = pooled_gradient.sum(axis=(0, 1, 2))
    tied = (blocks == blocks.max(axis=-1, keepdims=True)).sum(axis=-1) > 1
    return ConvPoolRelu(np.maximum(before_relu, 0), winner, tied, dx, dkernel, dbias)


def linear(x: np.ndarray, kernel: np.ndarray, bias: np.ndarray, cotangent: np.ndarray) -> Arrays:
    """`x @ kernel + bias`, and its gradients."""
    x, kernel, bias, cotangent = (np.asarray(a, np.float64) for a in (x, kernel, bias, cotangent))
    return {
        "output": x @ kernel + bias,
        "dx": cotangent @ kernel.T,
        "dkernel": x.T @ cotangent,
        "dbias": cotangent.sum(axis=0),
    }


def relu_flatten(x: np.ndarray, cotangent: np.ndarray) -> Arrays:
    """Rows of max(x, 0), channels fastest, and the gradient, which is 0 at 0."""
    x, rows = np.asarray(x, np.float64), np.asarray(cotangent, np.float64)
    return {
        "output": np.maximum(x, 0).reshape(len(x), -1),
        "dx": np.where(x > 0, rows.reshape(x.shape), 0),
    }


def cross_entropy(logits: np.ndarray, labels: np.ndarray, smoothing: float = 0.0) -> Arrays:
    """The cross-entropy of each row, and the gradient of their sum."""
    logits = np.asarray(logits, np.float64)
    classes = logits.shape[1]
    shifted = logits - logits.max(axis=1, keepdims=True)
    log_p = shifted - np.log(np.exp(shifted).sum(axis=1, keepdims=True))
    target = (1 - smoothing) * np.eye(classes)[labels] + smoothing / classes
    return {"output": -(target * log_p).sum(axis=1), "dx": np.exp(log_p) - target}


def lenet(params: Any, images: np.ndarray, labels: np.ndarray) -> Arrays:
    """Logits, the mean cross-entropy, and the gradient of that, by `layer.kernel` and `.bias`.

    Args:
      params: `{layer: {"kernel": …, "bias": …}}` of conv1, conv2, fc1, fc2 and fc3.
      images: normalised, (b, h, w, c).
      labels: (b,).
    """

    def weights(layer: str) -> tuple[np.ndarray, np.ndarray]:
        kernel, bias = params[layer]["kernel"], params[layer]["bias"]
        return np.asarray(kernel, np.float64), np.asarray(bias, np.float64)

    def pooled(x: np.ndarray, layer: str) -> np.ndarray:
        b, height, width, _ = x.shape
        kernel, bias = weights(layer)
        half = (height - kernel.shape[0] + 1) // 2, (width - kernel.shape[0] + 1) // 2
        return conv_pool_relu(x, kernel, bias, np.zeros((b, *half, len(bias)))).output

    x1 = pooled(images, "conv1")
    x2 = pooled(x1, "conv2")
    inputs = {"fc1": x2.reshape(len(x2), -1)}
    for layer, following in (("fc1", "fc2"), ("fc2", "fc3")):
        kernel, bias = weights(layer)
        inputs[following] = np.maximum(inputs[layer] @ kernel + bias, 0)
    kernel, bias = weights("fc3")
    logits = inputs["fc3"] @ kernel + bias
    losses = cross_entropy(logits, labels)
    results = {"logits": logits, "loss": losses["output"].mean(keepdims=True)}

    gradient = losses["dx"] / len(images)
    for layer in ("fc3", "fc2", "fc1"):
        back = linear(inputs[layer], *weights(layer), gradient)
        results |= {f"{layer}.kernel": back["dkernel"], f"{layer}.bias": back["dbias"]}
        gradient = np.where(inputs[layer] > 0, back["dx"], 0)
    gradient = gradient.reshape(x2.shape)
    for layer, x in (("conv2", x1), ("conv1", images)):
        conv = conv_pool_relu(x, *weights(layer), gradient)
        results |= {f"{layer}.kernel": conv.dkernel, f"{layer}.bias": conv.dbias}
        gradient = conv.dx
    return results
