"""Writes optim.npz: the trajectories of PyTorch's optimisers and schedulers.

    python -m tests.golden.make_optim

Needs torch and numpy. The file holds the initial parameters and gradients, the parameters after
each step for all OPTIMIZERS, the learning rate at each step for all SCHEDULES, and the version of
torch. If torch is installed, `test_optim` also calls the functions of this module.
"""

import itertools
from pathlib import Path
from typing import Any

import numpy as np

PATH = Path(__file__).parent / "optim.npz"
NUM_STEPS = 50
STEPS_PER_EPOCH = 10
SHAPES = {"kernel": (2, 3), "bias": (3,)}

SCHEDULE: dict[str, Any] = {
    "learning_rate": 0.05,
    "warmup_epochs": 0.0,
    "final_scale": 0.0,
    "step_epochs": 2,
    "step_scale": 0.3,
    "pct_start": 0.3,
    "div_factor": 25.0,
    "final_div_factor": 1e4,
}
SCHEDULES: dict[str, dict[str, Any]] = {
    "constant": {"name": "constant"},
    "constant_warmup": {"name": "constant", "warmup_epochs": 0.7},
    "cosine": {"name": "cosine"},
    "cosine_final": {"name": "cosine", "final_scale": 0.1},
    "cosine_warmup": {"name": "cosine", "warmup_epochs": 1.2, "final_scale": 0.2},
    "step": {"name": "step"},
    "step_warmup": {"name": "step", "warmup_epochs": 0.5, "step_epochs": 0.9},
    "one_cycle": {"name": "one_cycle"},
    "one_cycle_fraction": {"name": "one_cycle", "pct_start": 0.47, "div_factor": 3.0},
    "one_cycle_fall": {"name": "one_cycle", "pct_start": 0.0},
    "one_cycle_rise": {"name": "one_cycle", "pct_start": 1.0},
    "linear": {"name": "linear"},
    "linear_warmup": {"name": "linear", "warmup_epochs": 1.0, "final_scale": 0.1},
}

OPTIMIZER: dict[str, Any] = {
    "learning_rate": 0.05,
    "momentum": 0.0,
    "dampening": 0.0,
    "nesterov": False,
    "weight_decay": 0.0,
    "b1": 0.9,
    "b2": 0.999,
    "eps": 1e-8,
    "max_grad_norm": None,
}
OPTIMIZERS: dict[str, dict[str, Any]] = {
    f"sgd_momentum{momentum}_dampening{dampening}_decay{weight_decay}_nesterov{nesterov:d}": {
        "name": "sgd",
        "momentum": momentum,
        "dampening": dampening,
        "weight_decay": weight_decay,
        "nesterov": nesterov,
    }
    for momentum, dampening, weight_decay, nesterov in itertools.product(
        (0.0, 0.9), (0.0, 0.4), (0.0, 0.02), (False, True)
    )
    if not nesterov or (momentum and not dampening)
} | {
    "sgd_clipped": {"name": "sgd", "momentum": 0.9, "max_grad_norm": 2.0},
    "sgd_one_cycle": {"name": "sgd", "momentum": 0.9, "schedule": "one_cycle"},
    "adam": {"name": "adam", "learning_rate": 0.01},
    "adam_decay": {"name": "adam", "learning_rate": 0.01, "weight_decay": 0.02},
    "adam_betas": {"name": "adam", "learning_rate": 0.01, "b1": 0.7, "b2": 0.95, "eps": 1e-3},
    "adamw": {"name": "adamw", "learning_rate": 0.01, "weight_decay": 0.02},
    "adamw_cosine": {"name": "adamw", "weight_decay": 0.2, "schedule": "cosine_final"},
}


def torch_optimizer(parameters, *, name, learning_rate, weight_decay, **options):
    """The PyTorch optimiser for a config's settings."""
    import torch

    common = {"lr": learning_rate, "weight_decay": weight_decay}
    if name == "sgd":
        words = {key: options[key] for key in ("momentum", "dampening", "nesterov")}
        return torch.optim.SGD(parameters, **common, **words)
    adam = {"adam": torch.optim.Adam, "adamw": torch.optim.AdamW}[name]
    return adam(parameters, **common, betas=(options["b1"], options["b2"]), eps=options["eps"])


def torch_schedule(optimizer, *, name, learning_rate, warmup_epochs, **options):
    """The PyTorch scheduler for a config's settings; sets the optimiser's initial rate."""
    from torch.optim import lr_scheduler

    if name == "one_cycle":
        words = {key: options[key] for key in ("pct_start", "div_factor", "final_div_factor")}
        return lr_scheduler.OneCycleLR(
            optimizer, learning_rate, total_steps=NUM_STEPS, cycle_momentum=False, **words
        )
    for group in optimizer.param_groups:
        group["lr"] = learning_rate
    warmup = round(warmup_epochs * STEPS_PER_EPOCH)
    left = NUM_STEPS - warmup
    final_scale = options["final_scale"]

    def main():
        match name:
            case "constant":
                return lr_scheduler.ConstantLR(optimizer, factor=1.0)
            case "cosine":
                return lr_scheduler.CosineAnnealingLR(
                    optimizer, T_max=left, eta_min=final_scale * learning_rate
                )
            case "linear":
                return lr_scheduler.LinearLR(
                    optimizer, start_factor=1.0, end_factor=final_scale, total_iters=left
                )
            case _:
                period = round(options["step_epochs"] * STEPS_PER_EPOCH)
                return lr_scheduler.StepLR(optimizer, period, gamma=options["step_scale"])

    if not warmup:
        return main()
    rise = lr_scheduler.LinearLR(optimizer, start_factor=1 / (warmup + 1), total_iters=warmup)
    return lr_scheduler.SequentialLR(optimizer, [rise, main()], milestones=[warmup])


def torch_trajectory(case, initial, gradients):
    """The parameters after each step: {name: array of (steps, *shape)}."""
    import torch

    words = OPTIMIZER | case
    schedule, max_grad_norm = words.pop("schedule", None), words.pop("max_grad_norm")
    parameters = {key: torch.nn.Parameter(torch.tensor(value)) for key, value in initial.items()}
    optimizer = torch_optimizer(parameters.values(), **words)
    scheduler = None
    if schedule is not None:
        scheduler = torch_schedule(optimizer, **SCHEDULE | SCHEDULES[schedule])
    steps = []
    for i in range(NUM_STEPS):
        for key, parameter in parameters.items():
            parameter.grad = torch.tensor(gradients[key][i])
        if max_grad_norm is not None:
            torch.nn.utils.clip_grad_norm_(parameters.values(), max_grad_norm)
        optimizer.step()
        if scheduler is not None:
            scheduler.step()
        steps.append({key: value.detach().numpy().copy() for key, value in parameters.items()})
    return {key: np.stack([step[key] for step in steps]) for key in initial}


def torch_learning_rates(case):
    """The learning rate that each step uses, as float64."""
    import torch

    optimizer = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))])
    scheduler = torch_schedule(optimizer, **SCHEDULE | case)
    rates = [optimizer.param_groups[0]["lr"]]
    for _ in range(NUM_STEPS - 1):  # one more would make OneCycleLR with pct_start 1 divide by 0
        optimizer.step()
        scheduler.step()
        rates.append(optimizer.param_groups[0]["lr"])
    return np.array(rates)


def main():
    """Writes the file."""
    import torch

    random = np.random.default_rng(0)
    draw = {key: random.normal(size=(NUM_STEPS + 1, *shape)) for key, shape in SHAPES.items()}
    initial = {key: value[0].astype(np.float32) for key, value in draw.items()}
    gradients = {key: value[1:].astype(np.float32) for key, value in draw.items()}
    arrays = {"torch_version": np.array(str(torch.__version__))}
    arrays |= {f"initial/{key}": value for key, value in initial.items()}
    arrays |= {f"gradients/{key}": value for key, value in gradients.items()}
    for name, case in OPTIMIZERS.items():
        for key, value in torch_trajectory(case, initial, gradients).items():
            arrays[f"optimizer/{name}/{key}"] = value
    for name, case in SCHEDULES.items():
        arrays[f"schedule/{name}"] = torch_learning_rates(case)
    np.savez_compressed(PATH, allow_pickle=False, **arrays)


if __name__ == "__main__":
    main()
