"""The training of `configs/notes.py` as a plain PyTorch script.

    python experiments/whole_job_torch.py DATA.npz FOLDER --epochs=12 [--flush_denormal]

Writes `model.pt` and `result.json` into the folder. `experiments.whole_job` times it.
"""

import argparse
import json
from pathlib import Path

import numpy as np
import torch
from torch import nn
from torch.nn import functional

BATCH, LEARNING_RATE, MOMENTUM, WEIGHT_DECAY = 64, 0.05, 0.9, 5e-4


class LeNet(nn.Module):
    """The network of the tutorial notes, for images of 32×32."""

    def __init__(self):
        super().__init__()
        self.conv1 = nn.Conv2d(1, 6, 5)
        self.conv2 = nn.Conv2d(6, 12, 5)
        self.fc1 = nn.Linear(12 * 5 * 5, 120)
        self.fc2 = nn.Linear(120, 84)
        self.fc3 = nn.Linear(84, 10)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """The logits of a batch."""
        x = functional.max_pool2d(functional.relu(self.conv1(x)), 2)
        x = functional.max_pool2d(functional.relu(self.conv2(x)), 2)
        x = functional.relu(self.fc1(torch.flatten(x, 1)))
        return self.fc3(functional.relu(self.fc2(x)))


@torch.no_grad()
def count_right(network: LeNet, images: torch.Tensor, labels: torch.Tensor) -> int:
    """How many images the network classifies correctly."""
    batches = zip(images.split(500), labels.split(500), strict=True)
    return sum(int((network(x).argmax(1) == y).sum()) for x, y in batches)


def main() -> None:
    """Trains, keeps the weights that are best on validation, and tests them."""
    parser = argparse.ArgumentParser()
    parser.add_argument("data", type=Path)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--epochs", type=int, default=12)
    parser.add_argument("--flush_denormal", action="store_true")
    arguments = parser.parse_args()
    if arguments.flush_denormal:
        torch.set_flush_denormal(True)
    torch.manual_seed(0)
    with np.load(arguments.data) as arrays:
        data = {name: torch.from_numpy(arrays[name]) for name in arrays.files}
    pixels = data["train_images"].float()
    mean, std = pixels.mean(), pixels.std()

    def images(split: str) -> torch.Tensor:
        return (data[f"{split}_images"].float()[:, None] - mean) / std

    train, valid, test = images("train"), images("valid"), images("test")
    labels = data["train_labels"].long()
    network = LeNet()
    optimizer = torch.optim.SGD(
        network.parameters(), LEARNING_RATE, momentum=MOMENTUM, weight_decay=WEIGHT_DECAY
    )
    steps = arguments.epochs * -(-len(train) // BATCH)
    scheduler = torch.optim.lr_scheduler.OneCycleLR(
        optimizer, LEARNING_RATE, total_steps=steps, cycle_momentum=False
    )
    best, weights = -1, network.state_dict()
    for epoch in range(arguments.epochs):
        for batch in torch.randperm(len(train)).split(BATCH):
            optimizer.zero_grad()
            loss = functional.cross_entropy(network(train[batch]), labels[batch])
            loss.backward()
            optimizer.step()
            scheduler.step()
        right = count_right(network, valid, data["valid_labels"])
        print(f"epoch {epoch + 1}: {right} of {len(valid)}", flush=True)
        if right > best:
            best, weights = right, {k: v.clone() for k, v in network.state_dict().items()}
    network.load_state_dict(weights)
    accuracy = count_right(network, test, data["test_labels"]) / len(test)
    torch.save(weights, arguments.folder / "model.pt")
    (arguments.folder / "result.json").write_text(json.dumps({"test_accuracy": accuracy}))


if __name__ == "__main__":
    main()
