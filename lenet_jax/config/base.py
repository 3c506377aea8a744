"""Every key there is, with its default. The comment behind a key is its help and its unit.

Other configs start from `get_config()` here and change what differs.
"""

from ml_collections import ConfigDict
from ml_collections.config_dict import placeholder

from lenet_jax.errors import UserError


def get_config(arg: str = "") -> ConfigDict:
    """Returns the defaults; the argument `smoke` cuts the run down to seconds."""
    config = ConfigDict()
    config.seed = 0  # decides initial weights, data order and augmentation

    config.seeds = ConfigDict()
    config.seeds.init = placeholder(int)  # seed of the initial weights alone; None: config.seed
    config.seeds.order = placeholder(int)  # seed of the data order alone; None: config.seed
    config.seeds.augment = placeholder(int)  # seed of the augmentation alone; None: config.seed

    config.data = ConfigDict()
    config.data.name = "mnist"  # embedded `mnist`, a TFDS name, or a folder of idx files
    config.data.data_dir = placeholder(str)  # prepared TFDS datasets; None: TFDS's default folder
    config.data.image_size = 32  # pixels; height and width that the network sees
    config.data.fit = "pad"  # `pad` (centred, with zeros) or `resize` (bilinear) to image_size
    config.data.valid_examples = 5000  # images taken from train to choose epochs and models on
    config.data.split_seed = 0  # which images those are; independent of the run's seed
    config.data.train_examples = placeholder(int)  # images left in train after the split; None: all

    config.model = ConfigDict()
    config.model.channels = (6, 12)  # feature maps of the two convolutions
    config.model.features = (120, 84)  # units of the two hidden linear layers
    config.model.num_classes = placeholder(int)  # logits; None: as many as the data has
    config.model.in_channels = placeholder(int)  # image channels; None: as many as the data has
    config.model.init = "torch"  # `torch` (uniform ±1/√fan_in) or `flax` (LeCun normal, zero bias)
    config.model.backend = "auto"  # `native` (C++, CPU), `phase`, `plain`, or the fastest there is

    config.train = ConfigDict()
    config.train.num_epochs = 12  # passes over the training images
    config.train.batch_size = 64  # images per optimiser step
    config.train.micro_batch_size = 32  # images per gradient; a larger batch accumulates
    config.train.eval_batch_size = 80  # images per forward pass in evaluation
    config.train.label_smoothing = 0.0  # share of the target spread over all classes, in [0, 1)
    config.train.initial_weights = placeholder(str)  # a run, a file, or SWEEP:MEMBER; None: drawn
    config.train.max_grad_norm = placeholder(float)  # clip the gradient's global norm; None: never

    config.optimizer = ConfigDict()
    config.optimizer.name = "sgd"  # `sgd`, `adam` or `adamw`
    config.optimizer.learning_rate = 0.05  # the schedule's peak
    config.optimizer.momentum = 0.9  # sgd only, in [0, 1)
    config.optimizer.dampening = 0.0  # sgd only, in [0, 1]
    config.optimizer.nesterov = False  # sgd only; needs momentum and no dampening
    config.optimizer.weight_decay = 5e-4  # L2 for sgd and adam, decoupled for adamw
    config.optimizer.b1 = 0.9  # adam and adamw only, in [0, 1)
    config.optimizer.b2 = 0.999  # adam and adamw only, in [0, 1)
    config.optimizer.eps = 1e-8  # adam and adamw only

    config.schedule = ConfigDict()
    config.schedule.name = "one_cycle"  # `constant`, `cosine`, `step`, `one_cycle` or `linear`
    config.schedule.warmup_epochs = 0.0  # epochs of linear warm-up; constant, cosine, step, linear
    config.schedule.final_scale = 0.0  # cosine, linear: last learning rate over the peak
    config.schedule.step_epochs = 5  # step: epochs between two drops
    config.schedule.step_scale = 0.1  # step: factor of a drop
    config.schedule.pct_start = 0.3  # one_cycle: share of the steps that rise
    config.schedule.div_factor = 25.0  # one_cycle: peak over first learning rate
    config.schedule.final_div_factor = 1e4  # one_cycle: first over last learning rate

    config.augment = ConfigDict()
    config.augment.shift = 0.0  # pixels, uniform in ± in both directions
    config.augment.rotate = 0.0  # degrees, uniform in ±
    config.augment.scale = 0.0  # relative, uniform in 1 ±
    config.augment.shear = 0.0  # degrees, uniform in ±

    config.checkpoint = ConfigDict()
    config.checkpoint.every_epochs = 1  # epochs between two checkpoints
    config.checkpoint.keep = 2  # latest checkpoints kept; each holds the best parameters so far too

    if arg not in ("", "smoke"):
        raise UserError(f"unknown config argument {arg!r}; the one there is: smoke")
    return smoke(config) if arg == "smoke" else config


def smoke(config: ConfigDict) -> ConfigDict:
    """Cuts a config down to a run of seconds on the same code paths."""
    config.update(data={"train_examples": 3000, "valid_examples": 500}, train={"num_epochs": 2})
    return config
