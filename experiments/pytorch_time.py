"""How long a loop in PyTorch would take to train the networks of a study, one after the other."""

from typing import Any

from experiments.benchmark import IMAGES_PER_TURN, compare_populations


def extrapolate(network: str, images: int, turns: int) -> dict[str, Any]:
    """Times a part of the training on both sides, in turns, and extrapolates to all of it.

    The part is 12,800 images of one network in PyTorch (eager, batches of 64, all cores), and of a
    population of 32 here. Nothing else should run on the machine.

    Args:
      network: of `benchmark.NETWORKS`.
      images: of the whole study: members · epochs · training images.
      turns: medians are of so many.
    """
    *_, record = compare_populations(network, turns, ["torch"])
    seconds, ratio = images / record["model_images_per_second"], record["ratio_median"]["torch"]
    return {
        "images": images,
        "timed_images": IMAGES_PER_TURN,
        "turns": turns,
        "extrapolated_seconds": seconds,
        "extrapolated_seconds_of_pytorch": ratio * seconds,
        "ratio_median": ratio,
    }


def sentence(timing: dict[str, Any]) -> str:
    """What was extrapolated, for a reader."""
    hours, ratio = timing["extrapolated_seconds_of_pytorch"] / 3600, timing["ratio_median"]
    return (
        f"A loop in PyTorch would train as many images in {hours:.1f} h, {ratio:.1f} times as long,"
        f" extrapolated from {timing['timed_images']:,} images (median of"
        f" {timing['turns']} turns)."
    )
