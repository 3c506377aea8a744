"""The comparison of several networks."""

import numpy as np

from lenet_jax import config as configs
from lenet_jax.data import from_arrays
from lenet_jax.inference.load import Results
from lenet_jax.report.compare import Answers, compare


def test_p_values_have_equally_many_digits():
    rows = [np.repeat([0, 1], [400 - wrong, wrong]) for wrong in (0, 1, 20, 390)]
    images, labels = np.zeros((400, 28, 28), np.uint8), np.arange(400) % 2
    dataset = from_arrays(images, labels, images, np.zeros(400, int))
    answers = Answers(dataset, np.array(rows), [1] * 4)
    assert [row[3] for row in answers.pairs()][:3] == ["1.000", "1.9e-06", "7.9e-118"]


def test_an_accuracy_that_is_not_recorded_is_that_of_the_answers():
    config = configs.load("configs/notes.py")
    images, labels = np.zeros((20, 28, 28), np.uint8), np.arange(20) % 2
    dataset = from_arrays(images, labels, images[:4], np.array([0, 1, 0, 1]))
    known = Results("a", config, {"test_accuracy": 0.9}, [])
    unknown = Results("b:1@1", config, {}, [])
    answers = Answers(dataset, np.array([[0, 1, 0, 1], [0, 1, 1, 1]]), (49_102, 61_706))
    page, lines = compare([known, unknown], answers)
    assert "[1] a" in page and "[2] b:1@1" in page
    (line,) = (line for line in lines if line.startswith("parameters"))
    assert line.split()[-2:] == ["49,102", "61,706"]
    (line,) = (line for line in lines if line.startswith("test accuracy"))
    assert line.split()[-2:] == ["90.00", "75.00"]
