"""The tables of the schema: ranges and choices, constraints between keys, and names of keys."""

import itertools
from collections.abc import Sequence

from lenet_jax.config.measurements import AVERAGED, TAKEN, are_distinct, are_free

# Allowed values: an interval for a number or each item of a tuple, the choices for a string.
# A key that is not listed is a boolean, an arbitrary string or a tuple of some.
RULES: dict[str, str | tuple[str, ...]] = {
    "seed": "[0, inf)",
    "seeds.init": "[0, inf)",
    "seeds.order": "[0, inf)",
    "seeds.augment": "[0, inf)",
    "seeds.subset": "[0, inf)",
    "seeds.label_noise": "[0, inf)",
    "seeds.prune": "[0, inf)",
    "data.image_size": "[16, inf)",
    "data.fit": ("pad", "resize"),
    "data.valid_examples": "[0, inf)",
    "data.split_seed": "[0, inf)",
    "data.train_examples": "[1, inf)",
    "data.subset": "[1, inf)",
    "data.label_noise": "[0, 1]",
    "data.class_weights": "[0, inf)",
    "model.channels": "[1, inf)",
    "model.features": "[1, inf)",
    "model.num_classes": "[2, inf)",
    "model.in_channels": "[1, inf)",
    "model.activation": ("relu", "leaky_relu", "elu", "gelu", "silu", "tanh", "sigmoid"),
    "model.pool": ("max", "avg"),
    "model.padding": "[0, 16]",
    "model.init": ("torch", "flax", "lecun_1998"),
    "model.backend": ("auto", "native", "pallas", "phase", "plain"),
    "train.num_epochs": "[1, inf)",
    "train.schedule_epochs": "[1, inf)",
    "train.batch_size": "[1, inf)",
    "train.micro_batch_size": "[1, inf)",
    "train.eval_batch_size": "[1, inf)",
    "train.precision": ("float32", "tensorfloat32", "bfloat16"),
    "train.normalize": ("standard", "lenet_1998"),
    "train.label_smoothing": "[0, 1)",
    "train.max_grad_norm": "(0, inf)",
    "train.ema_decay": "(0, 1)",
    "train.patience": "[1, inf)",
    "prune.amount": "[0, 1)",
    "prune.scope": ("global", "layer"),
    "prune.method": ("magnitude", "random"),
    "optimizer.name": ("sgd", "adam", "adamw", "diagonal_lm"),
    "optimizer.learning_rate": "(0, inf)",
    "optimizer.momentum": "[0, 1)",
    "optimizer.dampening": "[0, 1]",
    "optimizer.weight_decay": "[0, inf)",
    "optimizer.b1": "[0, 1)",
    "optimizer.b2": "[0, 1)",
    "optimizer.eps": "(0, inf)",
    "optimizer.mu": "(0, inf)",
    "optimizer.samples": "[1, inf)",
    "schedule.name": ("constant", "cosine", "step", "piecewise", "one_cycle", "linear"),
    "schedule.warmup_epochs": "[0, inf)",
    "schedule.final_scale": "[0, 1]",
    "schedule.step_epochs": "[1, inf)",
    "schedule.step_scale": "(0, 1]",
    "schedule.boundaries": "(0, inf)",
    "schedule.factors": "[0, inf)",
    "schedule.pct_start": "(0, 1)",
    "schedule.div_factor": "[1, inf)",
    "schedule.final_div_factor": "[1, inf)",
    "augment.shift": "[0, inf)",
    "augment.rotate": "[0, 180]",
    "augment.scale": "[0, 1)",
    "augment.shear": "[0, 90)",
    "augment.squeeze": "[0, 1)",
    "augment.elastic_alpha": "[0, inf)",
    "augment.elastic_sigma": "(0, inf)",
    "checkpoint.every_epochs": "[1, inf)",
    "checkpoint.keep": "[1, inf)",
    "log.trackers": ("mlflow", "wandb"),
}

MOST_PARAMS = 2**31 - 1  # which int32 counts


def _num_params(
    channels: Sequence[int],
    features: Sequence[int],
    image_size: int,
    padding: int,
    in_channels: int | None,
    num_classes: int | None,
) -> int:
    """The parameters of a LeNet; of sizes that the data give, the least."""
    side = (image_size + 2 * padding) // 4 - 3
    widths = (side**2 * channels[1], *features, num_classes or 1)
    convolutions = 25 * ((in_channels or 1) * channels[0] + channels[0] * channels[1])
    return convolutions + sum(a * b for a, b in itertools.pairwise(widths))


# Constraints between keys: their paths, a predicate on their values, and the error message.
JOINT_RULES = (
    (
        (
            *("model.channels", "model.features", "data.image_size", "model.padding"),
            *("model.in_channels", "model.num_classes"),
        ),
        lambda *sizes: _num_params(*sizes) < MOST_PARAMS,
        f"the network would have more than {MOST_PARAMS:,} parameters",
    ),
    (
        ("data.image_size", "model.padding"),
        lambda size, padding: (size + 2 * padding) % 4 == 0,
        "size + 2 · padding must be a multiple of 4, for two 5×5 convolutions, each followed"
        " by 2×2 pooling",
    ),
    (
        ("data.subset", "data.subset_file"),
        lambda subset, file: subset is None or file is None,
        "give a number of examples to draw, or a file of their indices, not both",
    ),
    (
        ("data.class_weights",),
        lambda weights: not weights or any(weights),
        "at least one weight must be above 0",
    ),
    (
        ("data.class_weights",),
        lambda weights: not any(weights) or 1e-30 <= max(weights) <= 1e30,
        "the largest must be 1e-30 to 1e30, so that the weights of a batch have a sum in float32",
    ),
    (
        ("data.class_weights", "optimizer.name"),
        lambda weights, name: not weights or name != "diagonal_lm",
        "diagonal_lm estimates the curvature of the loss without weights",
    ),
    (
        ("train.batch_size", "train.micro_batch_size"),
        lambda batch, micro: batch <= micro or batch % micro == 0,
        "the batch must be at most one micro-batch, or a multiple of it",
    ),
    (
        ("train.label_smoothing", "train.loss"),
        lambda smoothing, loss: smoothing == 0 or loss == "cross_entropy",
        "label smoothing is for cross_entropy",
    ),
    (
        ("train.patience", "data.valid_examples"),
        lambda patience, examples: patience is None or examples > 0,
        "patience waits for a better validation accuracy, which needs validation images",
    ),
    (("train.measurements",), are_distinct, "the names of the functions must differ"),
    (
        ("train.measurements",),
        are_free,
        f"{', '.join(TAKEN)} and {AVERAGED}… are names of other results",
    ),
    (
        ("optimizer.nesterov", "optimizer.name"),
        lambda nesterov, name: not nesterov or name == "sgd",
        "Nesterov momentum is for sgd",
    ),
    (
        ("optimizer.nesterov", "optimizer.momentum", "optimizer.dampening"),
        lambda nesterov, momentum, dampening: not nesterov or (momentum > 0 and dampening == 0),
        "Nesterov momentum needs momentum above 0 and no dampening",
    ),
    (
        ("schedule.warmup_epochs", "schedule.name"),
        lambda warmup, name: warmup == 0 or name != "one_cycle",
        "one_cycle warms up by itself, see schedule.pct_start",
    ),
    (
        ("schedule.warmup_epochs", "train.num_epochs"),
        lambda warmup, epochs: warmup <= epochs,
        "the warm-up must end within the run",
    ),
    (
        ("schedule.name", "schedule.boundaries"),
        lambda name, boundaries: name != "piecewise" or len(boundaries) > 0,
        "piecewise needs the epochs after which the rate changes, and a factor for each",
    ),
    (
        ("schedule.boundaries",),
        lambda boundaries: all(a < b for a, b in itertools.pairwise(boundaries)),
        "the boundaries must ascend",
    ),
    (
        ("schedule.boundaries", "schedule.factors"),
        lambda boundaries, factors: len(boundaries) == len(factors),
        "each boundary must have one factor",
    ),
    (
        ("augment.shift", "data.image_size"),
        lambda shift, size: shift < size,
        "the shift must leave some of the image in view",
    ),
)

# What the arguments of a network's constructor may be, by their type.
OWN_KINDS = {
    bool: "true or false",
    int: "an integer between -2**31 and 2**31",
    float: "a finite number",
    str: "a text",
    tuple: "a tuple of numbers, texts or booleans",
    object: "a number, a text, true or false, or a tuple of them",
}

# Former names of keys, still accepted in files and on command lines.
RENAMED = {"model.lowering": "model.backend"}

# Other spellings of values, which are replaced.
SPELLINGS = {"train.precision=tf32": "tensorfloat32"}

# Keys that the config.json of an older version lacks; their defaults are what it did.
ADDED = (
    *("model.name", "train.schedule_epochs", "train.precision"),
    *("model.activation", "model.pool", "model.padding"),
    *("train.loss", "train.ema_decay", "train.patience", "train.freeze", "train.measurements"),
    *("optimizer.mu", "optimizer.samples", "schedule.boundaries", "schedule.factors"),
    *("augment.squeeze", "augment.elastic_alpha", "augment.elastic_sigma"),
    *("train.normalize", "log.trackers"),
    *("seeds.subset", "seeds.label_noise"),
    *("data.subset", "data.subset_file", "data.label_noise", "data.class_weights"),
    *("seeds.prune", "prune.amount", "prune.scope", "prune.method", "prune.weights"),
)

# Names of these keys in other libraries, which are suggested but not accepted.
ALIASES = {
    "lr": "optimizer.learning_rate",
    "max_lr": "optimizer.learning_rate",
    "wd": "optimizer.weight_decay",
    "decay": "optimizer.weight_decay",
    "l2": "optimizer.weight_decay",
    "opt": "optimizer.name",
    "optimizer": "optimizer.name",
    "optimiser": "optimizer.name",
    "schedule": "schedule.name",
    "beta1": "optimizer.b1",
    "beta2": "optimizer.b2",
    "bs": "train.batch_size",
    "epochs": "train.num_epochs",
    "microbatch": "train.micro_batch_size",
    "matmul_precision": "train.precision",
    "clip": "train.max_grad_norm",
    "clip_norm": "train.max_grad_norm",
    "early_stopping": "train.patience",
    "ema": "train.ema_decay",
    "criterion": "train.loss",
    "objective": "train.loss",
    "metrics": "train.measurements",
    "logger": "log.trackers",
    "tracker": "log.trackers",
    "dataset": "data.name",
    "resolution": "data.image_size",
    "act": "model.activation",
    "nonlinearity": "model.activation",
    "pooling": "model.pool",
    "width": "model.channels",
    "hidden": "model.features",
    "classes": "model.num_classes",
    "class_weight": "data.class_weights",
    "noise": "data.label_noise",
    "sparsity": "prune.amount",
    "pruning": "prune.amount",
    "scheduler": "schedule.name",
    "lr_schedule": "schedule.name",
    "warmup": "schedule.warmup_epochs",
    "rotation": "augment.rotate",
    "translate": "augment.shift",
    "random_seed": "seed",
}
