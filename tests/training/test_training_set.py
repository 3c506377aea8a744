"""Training sets of single networks: subsets, replaced labels, class weights."""

import numpy as np
import pytest

from lenet_jax.errors import UserError
from lenet_jax.storage.columns import Columns
from lenet_jax.sweeps import plan
from lenet_jax.sweeps.file import product, sweep
from lenet_jax.sweeps.members import Members
from lenet_jax.training.spec import make_spec
from lenet_jax.training.training_set import make_split, make_training_set
from tests.support import tiny

DATASET = tiny.dataset()


def drawn(seed=0, **data):
    return make_training_set(tiny.config(data=data, seeds={"subset": seed}), DATASET)


def test_a_smaller_subset_is_part_of_a_larger_one_and_another_seed_draws_another():
    small, large = drawn(subset=20).indices, drawn(subset=50).indices
    assert (len(small), len(large)) == (20, 50) and set(small) < set(large) < set(range(70))
    assert set(drawn(seed=1, subset=20).indices) != set(small)


def test_label_noise_replaces_its_share_by_other_classes_and_keeps_the_subset():
    clean = DATASET.train.labels
    few, many, all_ = (drawn(label_noise=share).labels for share in (0.2, 0.5, 1.0))
    assert [np.sum(labels != clean) for labels in (few, many, all_)] == [14, 35, 70]
    assert (few[few != clean] == many[few != clean]).all()
    assert set(all_) == set(range(6))
    subset = drawn(subset=30, label_noise=0.5)
    assert (subset.labels == many[subset.indices]).all()


@pytest.mark.parametrize("name", ["indices.txt", "indices.npy"])
def test_a_file_lists_the_subset(tmp_path, name):
    file, indices = tmp_path / name, [9, 0, 69]
    if name.endswith("npy"):
        np.save(file, np.array(indices, np.uint8))
    else:
        file.write_text("\ufeff9\n0\r\n\n69")  # with the byte order mark of some editors
    split = make_split(tiny.config(data={"subset_file": str(file)}), DATASET)
    np.testing.assert_array_equal(split.images, DATASET.train.images[sorted(indices)])
    assert make_spec(tiny.config(data={"subset_file": str(file)}), DATASET).num_examples == 3


@pytest.mark.parametrize(
    ("data", "message"),
    [
        ({"subset": 71}, "data.subset is 71; it must be 1 to 70, the training images"),
        ({"class_weights": (1.0, 2.0)}, "data.class_weights has 2 weights, but the data 'bars'"),
        ("1\n2\n1\n", "indices.txt has the index 1 more than once"),
        ("70\n", "indices.txt has the index 70; it must be 0 to 69"),
        ("1\n-2\n", "indices.txt:2: -2 is no index"),
        ("1.5\n", "indices.txt:1: 1.5 is no index"),
        ("\n", "indices.txt has no indices"),
        (np.arange(3.0), "indices.npy has float64 (3,); needed are integers (n,)"),
        (np.zeros((2, 3), int), "needed are integers (n,)"),
        ({"subset_file": "nothing.txt"}, "data.subset_file: nothing.txt does not exist"),
        ({"subset_file": "."}, "data.subset_file: . is not a file"),
    ],
)
def test_what_does_not_fit_the_data_is_refused(tmp_path, monkeypatch, data, message):
    if isinstance(data, str):
        (tmp_path / "indices.txt").write_text(data)
        data = {"subset_file": "indices.txt"}
    elif isinstance(data, np.ndarray):
        np.save(tmp_path / "indices.npy", data)
        data = {"subset_file": "indices.npy"}
    config = tiny.config(data=data)
    monkeypatch.chdir(tmp_path)
    with pytest.raises(UserError) as error:
        make_spec(config, DATASET)
    assert message in str(error.value)


def test_members_with_other_subsets_noise_and_weights_are_one_group():
    changes = product(
        sweep("data.label_noise", (0.0, 0.4)),
        sweep("data.class_weights", ((1.0,) * 6, (1.0, 2.0, 3.0, 4.0, 5.0, 6.0))),
        sweep("seeds.subset", (0, 1)),
    )
    members = Members(tiny.config(data={"subset": 40}), Columns.of(changes))
    (group,) = plan.make_groups(members, lambda _: DATASET, shared_data_order=False)
    assert (len(group.members), group.spec.num_examples) == (8, 40)
    assert group.has_own_training_sets
    with pytest.raises(UserError, match=r"members 0 and 1 differ in seeds\.subset"):
        plan.make_groups(members, lambda _: DATASET, shared_data_order=True)
