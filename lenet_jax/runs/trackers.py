"""Trackers of experiments beside TensorBoard: MLflow and Weights & Biases, as hooks of a run.

Each is given the config, the metrics of every epoch and the content of `summary.json`, and the
path of the run directory; files stay there. Both work offline: without a server of one's own,
MLflow writes `mlflow.db` in the run directory, and Weights & Biases, without an API key, the folder
`wandb` there, which `wandb sync` uploads. Nothing else is sent: their own telemetry is off, unless
the environment turns it on.
"""

import abc
import importlib
import logging
import os
import time
import warnings
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any

from lenet_jax.errors import UserError, printable
from lenet_jax.reading import read_json
from lenet_jax.storage.files import write_json
from lenet_jax.storage.run_dir import TRACKERS, Row

NAME = "lenet-jax"  # of the experiment or project, unless the environment has another


class Tracker(abc.ABC):
    """A hook that reports a run; resumed, it continues the run of the tracker.

    If it fails at the start, that is an error as in any hook: nothing is trained yet. Later it must
    not cost results: a line warns that it failed, it is left out from then on, and the run goes on.
    """

    name: str  # as in `log.trackers`

    def __init__(self, warn: Callable[[str], None]):
        """Imports the library.

        Args:
          warn: is called if the tracker fails later.

        Raises:
          ImportError: the library is not installed.
        """
        self._warn, self._works = warn, False

    def on_start(self, workdir: Path, config: Mapping[str, Any], epoch: int) -> None:
        """Starts the tracker's run, or continues that of the folder."""
        ids = read_json(workdir / TRACKERS, dict[str, str]) or {}
        started = self._start(workdir, config, ids.get(self.name))
        self._works = True
        write_json(workdir / TRACKERS, ids | {self.name: started})

    def on_epoch(self, row: Row, network: Callable[[], Any]) -> None:
        """Reports the metrics of an epoch."""
        self._attempt(lambda: self._log(row))

    def on_end(self, status: str, summary: Mapping[str, Any]) -> None:
        """Reports the results."""
        self._attempt(lambda: self._end(status, summary))

    def _attempt(self, report: Callable[[], None]) -> None:
        if not self._works:
            return
        try:
            report()
        except Exception as error:  # noqa: BLE001  # its library and its server may raise anything
            self._works = False
            reason = f"{type(error).__name__}: {printable(error, 100)}"
            self._warn(f"{self.name} failed and is left out from now on: {reason}")

    @abc.abstractmethod
    def _start(self, workdir: Path, config: Mapping[str, Any], run: str | None) -> str:
        """Starts or continues a run; returns its id."""

    @abc.abstractmethod
    def _log(self, row: Row) -> None: ...

    @abc.abstractmethod
    def _end(self, status: str, summary: Mapping[str, Any]) -> None: ...


class MLflow(Tracker):
    """MLflow, whose server, or other store, `MLFLOW_TRACKING_URI` names."""

    name = "mlflow"

    def __init__(self, warn: Callable[[str], None]):
        super().__init__(warn)
        os.environ.setdefault("MLFLOW_DISABLE_TELEMETRY", "true")
        # A server that is gone holds the run up for half a minute, once; by default for ten.
        os.environ.setdefault("MLFLOW_HTTP_REQUEST_TIMEOUT", "10")
        os.environ.setdefault("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "2")
        with warnings.catch_warnings(action="ignore"):
            import mlflow.tracking  # pyright: ignore[reportMissingImports]

            if not os.environ.get("MLFLOW_TRACKING_URI"):
                for name in ("sqlalchemy", "alembic"):  # which its own store needs
                    importlib.import_module(name)
        logging.getLogger("mlflow").setLevel(logging.WARNING)  # no lines about its tables
        self._mlflow = mlflow

    def _start(self, workdir: Path, config: Mapping[str, Any], run: str | None) -> str:
        uri, artifacts = os.environ.get("MLFLOW_TRACKING_URI"), None
        if not uri:
            if {"%", "?"} & set(str(workdir)):  # which MLflow decodes in part
                raise ValueError("set MLFLOW_TRACKING_URI: no store can be in a path with % or ?")
            uri, artifacts = f"sqlite:///{workdir / 'mlflow.db'}", (workdir / "mlflow").as_uri()
        with warnings.catch_warnings(action="ignore"):
            self._client = self._mlflow.tracking.MlflowClient(tracking_uri=uri)
        if run is not None and self._continues(run):
            return run
        name = os.environ.get("MLFLOW_EXPERIMENT_NAME", NAME)
        if experiment := self._client.get_experiment_by_name(name):
            number = experiment.experiment_id
        else:
            number = self._client.create_experiment(name, artifacts)
        tags = {"workdir": str(workdir)}
        self._run = self._client.create_run(number, run_name=workdir.name, tags=tags).info.run_id
        flat: dict[str, Any] = {}
        for key, value in config.items():
            section = value if isinstance(value, Mapping) else None
            flat |= {key: value} if section is None else {f"{key}.{k}": section[k] for k in section}
        params = [self._mlflow.entities.Param(key, str(value)) for key, value in flat.items()]
        self._client.log_batch(self._run, params=params)
        return self._run

    def _continues(self, run: str) -> bool:
        """Continues a run; False if the store has none of this id."""
        try:
            self._client.update_run(run, status="RUNNING")
        except self._mlflow.exceptions.MlflowException as error:
            if error.error_code == "RESOURCE_DOES_NOT_EXIST":
                return False
            raise
        self._run = run
        return True

    def _log(self, row: Row) -> None:
        self._log_metrics({k: v for k, v in row.items() if k != "epoch"}, int(row["epoch"]))

    def _end(self, status: str, summary: Mapping[str, Any]) -> None:
        results = {k: v for k, v in summary.items() if isinstance(v, int | float)}
        self._log_metrics(results, summary.get("epochs", 0))
        ended = {"done": "FINISHED", "diverged": "FAILED"}.get(status, "KILLED")
        self._client.set_terminated(self._run, ended)

    def _log_metrics(self, values: Mapping[str, float | int], step: int) -> None:
        now = round(1000 * time.time())
        metrics = [self._mlflow.entities.Metric(k, float(v), now, step) for k, v in values.items()]
        self._client.log_batch(self._run, metrics=metrics)


class WandB(Tracker):
    """Weights & Biases; offline without an API key, unless `WANDB_MODE` says otherwise."""

    name = "wandb"

    def __init__(self, warn: Callable[[str], None]):
        super().__init__(warn)
        os.environ.setdefault("WANDB_ERROR_REPORTING", "false")
        with warnings.catch_warnings(action="ignore"):
            import wandb  # pyright: ignore[reportMissingImports]
        self._wandb = wandb

    def _start(self, workdir: Path, config: Mapping[str, Any], run: str | None) -> str:
        mode = os.environ.get("WANDB_MODE") or ("online" if _has_key() else "offline")
        self._run = self._wandb.init(
            project=os.environ.get("WANDB_PROJECT", NAME),
            name=os.environ.get("WANDB_NAME", workdir.name),
            dir=os.environ.get("WANDB_DIR", workdir),
            id=run,
            resume="allow" if run and mode == "online" else None,
            mode=mode,
            settings=self._wandb.Settings(
                silent=True, console="off", disable_git=True, disable_code=True
            ),
        )
        # An extended run has another number of epochs.
        self._run.config.update({"workdir": str(workdir), **config}, allow_val_change=True)
        self._run.define_metric("*", step_metric="epoch")  # a resumed run may repeat an epoch
        return self._run.id

    def _log(self, row: Row) -> None:
        self._run.log(dict(row))

    def _end(self, status: str, summary: Mapping[str, Any]) -> None:
        self._run.summary.update({"status": status, **summary})
        self._run.finish(exit_code=0 if status == "done" else 1)


TYPES: dict[str, Callable[[Callable[[str], None]], Tracker]] = {"mlflow": MLflow, "wandb": WandB}


def make_trackers(names: Iterable[str], warn: Callable[[str], None]) -> list[Tracker]:
    """The trackers of `config.log.trackers`.

    Args:
      names: keys of `TYPES`.
      warn: see `Tracker`.

    Raises:
      UserError: a library is not installed.
    """
    trackers = []
    for name in names:
        try:
            trackers.append(TYPES[name](warn))
        except ImportError as error:
            raise UserError(
                f"log.trackers={name} needs {error.name or name}, which is not installed\n"
                f"Install it and its dependencies: pip install '.[{name}]'"
            ) from error
    return trackers


def _has_key() -> bool:
    """Whether `wandb login`, or the environment, has left an API key."""
    import requests  # late: few runs need it

    url = os.environ.get("WANDB_BASE_URL", "https://api.wandb.ai")
    return bool(os.environ.get("WANDB_API_KEY") or requests.utils.get_netrc_auth(url))
