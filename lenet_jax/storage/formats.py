"""The forms of the JSON files of runs and sweeps, which `reading` holds them to.

A key that may be missing is one that an older version did not write.
"""

from typing import Annotated, Literal, NotRequired, TypeAlias, TypedDict

import msgspec

Number: TypeAlias = int | float
Scalar: TypeAlias = bool | int | float | str | None
# Of a key of a config; tuples are lists in JSON.
Value: TypeAlias = Scalar | list[Scalar]

# A line of metrics.jsonl: the metrics of an epoch by name, `epoch` among them.
Metrics: TypeAlias = dict[str, Number]


class RunRecord(TypedDict):
    """A run's `run.json`, see `runs.record`."""

    status: str
    data_fingerprint: str
    command: NotRequired[str]
    exit_reason: NotRequired[str | None]
    has_checkpoint: NotRequired[bool]
    has_sums: NotRequired[bool]
    extensions: NotRequired[list[dict[str, Scalar]]]
    git_revision: NotRequired[str | None]
    network_sha256: NotRequired[str | None]
    loss_sha256: NotRequired[str | None]
    measurement_sha256: NotRequired[str | None]
    subset_sha256: NotRequired[str | None]
    weights_sha256: NotRequired[str | None]
    processor: NotRequired[str]
    python: NotRequired[str]
    versions: NotRequired[dict[str, str]]
    working_directory: NotRequired[str]


class Summary(TypedDict, total=False):
    """A run's `summary.json`."""

    status: str
    test_accuracy: Number
    test_loss: Number
    test_examples: int
    test_mistakes: int
    valid_accuracy: Number
    best_epoch: int
    tested_weights: str
    num_params: int
    pruned_weights: int
    epochs: int
    stopped_early: bool
    test_ema_accuracy: Number
    steps: int
    train_seconds: Number
    images_per_second: Number
    seconds_to_first_step: Number


class PlannedColumn(TypedDict):
    """The values of a key, and which of them each member has, see `storage.columns`."""

    values: list[Value]
    members: NotRequired[list[Annotated[int, msgspec.Meta(ge=-1, lt=2**31)]]]


class PlannedMembers(TypedDict):
    """How many members a sweep has, and how their configs differ from the sweep's, by key."""

    count: Annotated[int, msgspec.Meta(ge=0)]
    columns: dict[str, PlannedColumn]


class PlannedMember(TypedDict):
    """A member of a sweep, as an older version wrote it."""

    member: int
    overrides: dict[str, Value]


class PlannedChunk(TypedDict):
    """The members of a chunk, and how many it has room for."""

    members: Annotated[list[int], msgspec.Meta(min_length=1)]
    size: Annotated[int, msgspec.Meta(ge=1)]


class SweepTrain(TypedDict):
    """What the results of a sweep's members are held to, of the section `train` of its config."""

    num_epochs: int
    measurements: NotRequired[list[str]]


class SweepConfig(TypedDict):
    """The config that a sweep's members override."""

    train: SweepTrain


class Plan(TypedDict):
    """A sweep's `sweep.json`, see `sweeps.plan`."""

    settings: dict[str, Scalar]
    data_fingerprints: list[str]
    members: PlannedMembers | list[PlannedMember]
    chunks: list[PlannedChunk]
    config: NotRequired[SweepConfig]


class Place(TypedDict):
    """A chunk's `chunk.json`: its number, and the SHA-256 of the plan in hex."""

    chunk: int
    plan: str


class MemberResult(TypedDict):
    """The results of a member; None where it diverged."""

    member: int
    status: Literal["done", "diverged"]
    valid_loss: Number | None
    valid_accuracy: Number | None
    test_loss: Number | None
    test_accuracy: Number | None
    valid_ema_accuracy: NotRequired[Number | None]
    test_ema_accuracy: NotRequired[Number | None]
    pruned_weights: NotRequired[int]
    best_epoch: int | None
    epochs: NotRequired[int | None]
    stopped_early: NotRequired[bool | None]
    diverged_step: int | None
    seconds: Number


class ChunkResults(TypedDict):
    """A chunk's `results.json`: one row per member, and what accuracy is no better than chance."""

    rows: list[MemberResult]
    chance: NotRequired[Number]
