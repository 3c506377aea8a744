from experiments.benchmark import describe, flops_per_image
from experiments.whole_job import summarise


def test_flops_by_hand():
    # lenet5: conv1 117,600 products, conv2 240,000, the linear layers 58,920
    assert flops_per_image("lenet5", training=False) == 2 * 416_520
    assert flops_per_image("lenet5", training=True) == 2_263_920
    assert flops_per_image("notes", training=True) == 1_831_920
    # LeNet-300-100: the first layer, 235,200 products, has no input gradient
    assert flops_per_image("mlp", training=True) == 2 * (2 * 235_200 + 3 * 31_000)


def test_a_ratio_compares_the_turns_of_one_round():
    seconds = {"torch": [2.0, 9.0, 4.0], "lenet-jax": [1.0, 3.0, 1.0]}
    record = describe("notes", "train, batch 64", 100, seconds, True)
    torch = record["peers"]["torch"]
    assert (torch["ratio_min"], torch["ratio_median"], torch["ratio_max"]) == (2, 3, 4)
    assert torch["images_per_second"] == 25
    assert record["flops"] == 100 * flops_per_image("notes", training=True)


def test_a_whole_job_is_compared_with_the_faster_pytorch():
    def runs(*seconds):
        both = "seconds_to_first_step", "seconds_after_last_step"
        return [{"seconds": each, **dict.fromkeys(both, 1.0)} for each in seconds]

    jobs = {"cold": runs(10, 20, 10), "warm": runs(5, 5, 4), "torch": runs(90, 90, 90)}
    answer = summarise(jobs | {"torch, denormals flushed": runs(40, 100, 60)})
    assert answer["compared_with"] == "torch, denormals flushed"
    cold = answer["jobs"]["cold"]
    assert (cold["ratio_min"], cold["ratio_median"], cold["ratio_max"]) == (4, 5, 6)
    assert answer["jobs"]["warm"]["seconds"] == 5
