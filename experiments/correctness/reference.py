"""LeNet's layers and their gradients in float64 NumPy, written without the package.

Every sum has its terms in a fixed order, element by element, so that equal windows have equal sums
and ties are ties. Of equal maxima the first in reading order wins.
"""

from typing import Any, NamedTuple

import numpy as np
import scipy.special

Arrays = dict[str, np.ndarray]


class ConvPoolRelu(NamedTuple):
    """What a convolution, a 2×2 max-pool, a bias and a ReLU give, forward and backward.

    Attributes:
      output: (b, h2, w2, k).
      winner: (b, h2, w2, k): which of the four pixels of a block, in reading order, is the maximum.
      tied: (b, h2, w2, k): whether another one equals it.
      dx, dkernel, dbias: gradients of the sum of `output` times the cotangent.
      margin: the smallest distance of a pixel from its block's maximum, and of a maximum from
        ReLU's kink, other than 0: smaller rounding does not change where a gradient flows.
    """

    output: np.ndarray
    winner: np.ndarray
    tied: np.ndarray
    dx: np.ndarray
    dkernel: np.ndarray
    dbias: np.ndarray
    margin: float


def conv_pool_relu(
    x: np.ndarray, kernel: np.ndarray, bias: np.ndarray, cotangent: np.ndarray
) -> ConvPoolRelu:
    """The layer for images (b, h, w, c) and a kernel (s, s, c, k), and its gradients."""
    x, kernel, bias, cotangent = (np.asarray(a, np.float64) for a in (x, kernel, bias, cotangent))
    b, height, width, channels = x.shape
    size, _, _, k = kernel.shape
    h, w = height - size + 1, width - size + 1
    taps = [(i, j) for i in range(size) for j in range(size)]

    blocks = blocks_of(convolve(x, kernel))
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
    behind = blocks.max(axis=-1, keepdims=True) - blocks
    tied = (behind == 0).sum(axis=-1) > 1
    distances = np.concatenate([behind.ravel(), np.abs(before_relu).ravel()])
    margin = float(distances[distances > 0].min(initial=np.inf))
    output = np.maximum(before_relu, 0)
    return ConvPoolRelu(output, winner, tied, dx, dkernel, dbias, margin)


def convolve(x: np.ndarray, kernel: np.ndarray) -> np.ndarray:
    """The valid convolution (b, h, w, k) of images, as neural networks have it: not flipped."""
    x, kernel = np.asarray(x, np.float64), np.asarray(kernel, np.float64)
    b, height, width, channels = x.shape
    size, _, _, k = kernel.shape
    h, w = height - size + 1, width - size + 1
    convolved = np.zeros((b, h, w, k))
    for i, j, c in np.ndindex(size, size, channels):
        convolved += x[:, i : i + h, j : j + w, c, None] * kernel[i, j, c]
    return convolved


def blocks_of(x: np.ndarray) -> np.ndarray:
    """The 2×2 blocks (b, h2, w2, k, 4) of feature maps, each in reading order."""
    b, h, w, k = x.shape
    blocks = x.reshape(b, h // 2, 2, w // 2, 2, k).transpose(0, 1, 3, 5, 2, 4)
    return blocks.reshape(b, h // 2, w // 2, k, 4)


def pool(x: np.ndarray, kind: str) -> np.ndarray:
    """The maximum (`max`) or the mean (`avg`) of each 2×2 block."""
    blocks = blocks_of(x)
    return blocks.max(axis=-1) if kind == "max" else blocks.mean(axis=-1)


# PyTorch's, by their formulas.
ACTIVATIONS = {
    "relu": lambda x: np.maximum(x, 0),
    "leaky_relu": lambda x: np.where(x > 0, x, 0.01 * x),
    "elu": lambda x: np.where(x > 0, x, np.expm1(np.minimum(x, 0))),
    "gelu": lambda x: x / 2 * (1 + scipy.special.erf(x / np.sqrt(2))),
    "silu": lambda x: x / (1 + np.exp(-x)),
    "tanh": np.tanh,
    "sigmoid": lambda x: 1 / (1 + np.exp(-x)),
}


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


def optimise(
    name: str,
    start: np.ndarray,
    gradients: np.ndarray,
    *,
    learning_rate: float,
    momentum: float,
    dampening: float,
    nesterov: bool,
    weight_decay: float,
    b1: float,
    b2: float,
    eps: float,
    max_grad_norm: float = np.inf,
) -> np.ndarray:
    """The parameters after each step of PyTorch's `SGD`, `Adam` or `AdamW`, by their formulas."""
    rate, momentum, dampening, decay = map(
        float, (learning_rate, momentum, dampening, weight_decay)
    )
    b1, b2 = float(b1), float(b2)
    params = np.asarray(start, np.float64)
    buffer = first = second = np.zeros_like(params)
    trajectory = []
    for number, gradient in enumerate(np.asarray(gradients, np.float64), 1):
        gradient = gradient * min(1.0, max_grad_norm / (np.linalg.norm(gradient) + 1e-6))
        if name == "adamw":
            params = params - rate * decay * params
        else:
            gradient = gradient + decay * params
        if name == "sgd":
            share = 1.0 if number == 1 or not momentum else 1 - dampening
            buffer = momentum * buffer + share * gradient
            params = params - rate * (gradient + momentum * buffer if nesterov else buffer)
        else:
            first = b1 * first + (1 - b1) * gradient
            second = b2 * second + (1 - b2) * gradient**2
            mean, square = first / (1 - b1**number), second / (1 - b2**number)
            params = params - rate * mean / (np.sqrt(square) + eps)
        trajectory.append(params)
    return np.stack(trajectory)


def rates(
    name: str,
    steps: np.ndarray,
    num_steps: int,
    steps_per_epoch: int,
    *,
    learning_rate: float,
    warmup_epochs: float,
    final_scale: float,
    step_epochs: float,
    step_scale: float,
    pct_start: float,
    div_factor: float,
    final_div_factor: float,
) -> np.ndarray:
    """The learning rate of each step, counted from 0, of a schedule by its formula."""
    spans_the_run = name in ("cosine", "linear", "one_cycle")
    t = np.minimum(steps, num_steps - 1) if spans_the_run else steps
    t = np.asarray(t, np.float64)
    if name == "one_cycle":
        first = learning_rate / div_factor
        top, last = pct_start * num_steps - 1.0, num_steps - 1.0
        rise = first + (learning_rate - first) * (1 - np.cos(np.pi * t / top)) / 2
        end = first / final_div_factor
        fall = end + (learning_rate - end) * (1 + np.cos(np.pi * (t - top) / (last - top))) / 2
        return np.where(t <= top, rise, fall)
    warmup = round(float(warmup_epochs) * steps_per_epoch)
    past = np.maximum(t - warmup, 0) / (num_steps - warmup)
    scale = {
        "constant": np.ones_like(t),
        "cosine": final_scale + (1 - final_scale) * (1 + np.cos(np.pi * past)) / 2,
        "linear": 1 - (1 - final_scale) * past,
        "step": float(step_scale)
        ** (np.maximum(t - warmup, 0) // max(1, round(float(step_epochs) * steps_per_epoch))),
    }[name]
    return learning_rate * np.where(t < warmup, (t + 1) / (warmup + 1), 1) * scale
