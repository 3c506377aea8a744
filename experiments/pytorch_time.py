"""How long the training of a study took, and how long a loop in PyTorch would take."""

from typing import Any

from experiments.benchmark import IMAGES_PER_TURN, compare_populations


def extrapolate(network: str, images: int, turns: int, seconds: float) -> dict[str, Any]:
    """Times a part of the training in PyTorch and here, in turns, and extrapolates to all of it.

    The part is 12,800 images of one network in PyTorch (eager, batches of 64, all cores), and of a
    population of 32 here. Nothing else should run on the machine.

    Args:
      network: of `benchmark.NETWORKS`.
      images: of the whole study: members · epochs · training images.
      turns: medians are of so many.
      seconds: that the study's training took here.
    """
    *_, record = compare_populations(network, turns, ["torch"])
    ratio = record["ratio_median"]["torch"]
    return {
        "training_seconds": seconds,
        "images": images,
        "timed_images": IMAGES_PER_TURN,
        "turns": turns,
        "extrapolated_seconds_of_pytorch": ratio * images / record["model_images_per_second"],
        "ratio_median": ratio,
    }


def sentence(timing: dict[str, Any], cores: int) -> str:
    """What it took, for a reader."""
    ours, theirs = timing["training_seconds"], timing["extrapolated_seconds_of_pytorch"]
    return (
        f"On {cores} cores training took {ours / 60:.1f} min; a loop in PyTorch would take"
        f" {theirs / 3600:.1f} h, {theirs / ours:.1f} times as long, extrapolated from"
        f" {timing['timed_images']:,} images (median of {timing['turns']} turns).\n"
    )
