"""All config keys with their defaults; the comment after a key is its help text.

Other configs call `get_config()` and override what differs.
"""

from ml_collections import ConfigDict
from ml_collections.config_dict import placeholder

from lenet_jax.errors import UserError


def get_config(arg: str = "") -> ConfigDict:
    """Returns the defaults; the argument `smoke` shortens the run to seconds."""
    config = ConfigDict()
    config.seed = 0  # seed of initial weights, data order and augmentation

    config.seeds = ConfigDict()
    config.seeds.init = placeholder(int)  # seed of the initial weights only; None: config.seed
    config.seeds.order = placeholder(int)  # seed of the data order only; None: config.seed
    config.seeds.augment = placeholder(int)  # seed of the augmentation only; None: config.seed
    config.seeds.subset = placeholder(int)  # seed of data.subset only; None: config.seed
    config.seeds.label_noise = placeholder(int)  # seed of data.label_noise only; None: config.seed
    config.seeds.prune = placeholder(int)  # seed of random pruning only; None: config.seed

    config.data = ConfigDict()
    config.data.name = "mnist"  # `mnist` (embedded), a path (see docs/data.md), or a TFDS name
    config.data.data_dir = placeholder(str)  # folder of TFDS datasets; None: TFDS's default
    config.data.image_size = 32  # height and width of the network's input, in pixels
    config.data.fit = "pad"  # fit to image_size: `pad` (centred, with zeros) or `resize` (bilinear)
    config.data.valid_examples = 5000  # held out for validation; 0: the last epoch is tested
    config.data.split_seed = 0  # seed of the validation split; independent of config.seed
    config.data.train_examples = placeholder(int)  # images to train on after the split; None: all
    config.data.subset = placeholder(int)  # how many of those to draw and train on; None: all
    config.data.subset_file = placeholder(str)  # or a file of their indices: text or .npy
    config.data.label_noise = 0.0  # share of the training labels that are replaced, in [0, 1]
    config.data.class_weights = ()  # weight of each class in the training loss; (): all equal

    config.model = ConfigDict()
    config.model.name = "lenet"  # `mlp`, `flax_mnist`, `lenet1`, … (docs/configs.md), FILE.py:Class
    config.model.channels = (6, 12)  # feature maps of the two convolutions
    config.model.features = (120, 84)  # units of the two hidden linear layers
    config.model.num_classes = placeholder(int)  # number of logits; None: classes of the data
    config.model.in_channels = placeholder(int)  # image channels; None: those of the data
    config.model.activation = "relu"  # after conv1, conv2, fc1, fc2; others than relu are slower
    config.model.pool = "max"  # 2×2 pooling, after the activation: `max` or `avg` (slower)
    config.model.padding = 0  # zeros around the normalised image, as Conv2d(padding=2) in PyTorch
    config.model.init = "torch"  # `torch` (±1/√fan_in), `flax` (normal), `lecun_1998` (±2.4/fan_in)
    config.model.backend = "auto"  # `native` (CPU), `pallas` (GPU), `phase`, `plain`, or `auto`

    config.train = ConfigDict()
    config.train.num_epochs = 12  # passes over the training images
    config.train.schedule_epochs = placeholder(int)  # epochs the schedule spans; None: num_epochs
    config.train.batch_size = 64  # images per optimiser step
    config.train.micro_batch_size = 32  # images per gradient; larger batches accumulate gradients
    config.train.eval_batch_size = 80  # images per forward pass in evaluation
    config.train.precision = (
        "float32"  # of products; or `tensorfloat32`, `bfloat16`: docs/devices.md
    )
    config.train.normalize = "standard"  # pixels: by mean and sd of the data, or `lenet_1998`
    config.train.loss = "cross_entropy"  # `mse`, `squashed_mse`, `map`, FILE.py:function
    config.train.measurements = ()  # FILE.py:function, …: of logits and labels
    config.train.label_smoothing = 0.0  # share of the target spread over all classes, in [0, 1)
    config.train.freeze = placeholder(str)  # layers not to train: `conv*,fc1.bias`; None: none
    config.train.initial_weights = placeholder(str)  # RUN, FILE or SWEEP:MEMBER[@EPOCH], or None
    config.train.max_grad_norm = placeholder(float)  # clips the gradient's global norm; None: off
    config.train.ema_decay = placeholder(float)  # of an average of the weights per step; None: off
    config.train.patience = placeholder(
        int
    )  # epochs without a better one that end the run; None: off

    config.prune = ConfigDict()
    config.prune.amount = 0.0  # share of a network's weights that are set to 0 for good, in [0, 1)
    config.prune.scope = "global"  # that share of all weights together, or of each `layer`'s
    config.prune.method = "magnitude"  # which: those nearest to 0, or `random` ones
    config.prune.weights = placeholder(str)  # by whose sizes and zeros; None: the initial weights

    config.optimizer = ConfigDict()
    config.optimizer.name = "sgd"  # `sgd`, `adam`, `adamw` or `diagonal_lm`
    config.optimizer.learning_rate = 0.05  # peak learning rate
    config.optimizer.momentum = 0.9  # sgd only, in [0, 1)
    config.optimizer.dampening = 0.0  # sgd only, in [0, 1]
    config.optimizer.nesterov = False  # sgd only; requires momentum > 0 and dampening 0
    config.optimizer.weight_decay = 5e-4  # L2 for sgd and adam, decoupled for adamw
    config.optimizer.b1 = 0.9  # adam and adamw only, in [0, 1)
    config.optimizer.b2 = 0.999  # adam and adamw only, in [0, 1)
    config.optimizer.eps = 1e-8  # adam and adamw only
    config.optimizer.mu = 0.02  # diagonal_lm only: added to each parameter's curvature
    config.optimizer.samples = 500  # diagonal_lm only: images to estimate the curvatures each epoch

    config.schedule = ConfigDict()
    config.schedule.name = "one_cycle"  # or `constant`, `cosine`, `step`, `piecewise`, `linear`
    config.schedule.warmup_epochs = 0.0  # linear warm-up, in epochs; not for one_cycle
    config.schedule.final_scale = 0.0  # cosine, linear: final over peak learning rate
    config.schedule.step_epochs = 5  # step: epochs between drops
    config.schedule.step_scale = 0.1  # step: factor of each drop
    config.schedule.boundaries = ()  # piecewise: epochs, ascending, after which the rate changes
    config.schedule.factors = ()  # piecewise: the rate after each of them over the peak
    config.schedule.pct_start = 0.3  # one_cycle: share of the steps with rising learning rate
    config.schedule.div_factor = 25.0  # one_cycle: peak over initial learning rate
    config.schedule.final_div_factor = 1e4  # one_cycle: initial over final learning rate

    config.augment = ConfigDict()
    config.augment.shift = 0.0  # translation in pixels, uniform in ±shift per axis
    config.augment.rotate = 0.0  # rotation in degrees, uniform in ±rotate
    config.augment.scale = 0.0  # scaling factor, uniform in 1 ± scale
    config.augment.shear = 0.0  # shear in degrees, uniform in ±shear
    config.augment.squeeze = 0.0  # width × and height ÷ a factor uniform in 1 ± squeeze
    config.augment.elastic_alpha = 0.0  # elastic: scale of the random field, 34 is Simard's
    config.augment.elastic_sigma = 4.0  # elastic: width of its smoothing, in pixels

    config.checkpoint = ConfigDict()
    config.checkpoint.every_epochs = 1  # epochs between checkpoints
    config.checkpoint.keep = 2  # latest checkpoints to keep; each also holds the best weights

    config.log = ConfigDict()
    config.log.trackers = ()  # beside TensorBoard: `mlflow`, `wandb`

    if arg not in ("", "smoke"):
        raise UserError(f"unknown config argument {arg!r}; the only one is smoke")
    return smoke(config) if arg == "smoke" else config


def smoke(config: ConfigDict) -> ConfigDict:
    """Shortens a config to a run of seconds on the same code paths."""
    config.update(data={"train_examples": 3000, "valid_examples": 500}, train={"num_epochs": 2})
    return config
