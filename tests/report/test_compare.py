"""The comparison of several networks."""

import numpy as np

from lenet_jax import config as configs
from lenet_jax.data import from_arrays
from lenet_jax.inference.load import Results
from lenet_jax.report.compare import Answers, compare


def test_an_accuracy_that_is_not_recorded_is_that_of_the_answers():
    config = configs.load("configs/notes.py")
    images, labels = np.zeros((20, 28, 28), np.uint8), np.arange(20) % 2
    dataset = from_arrays(images, labels, images[:4], np.array([0, 1, 0, 1]))
    known = Results("a", config, {"test_accuracy": 0.9}, [])
    unknown = Results("b:1@1", config, {}, [])
    answers = Answers(dataset, np.array([[0, 1, 0, 1], [0, 1, 1, 1]]))
    _, lines = compare([known, unknown], answers)
    (line,) = (line for line in lines if line.startswith("test accuracy"))
    assert line.split()[-2:] == ["90.00", "75.00"]
