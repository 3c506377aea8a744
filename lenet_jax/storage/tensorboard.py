"""TensorBoard event files, flushed after every row."""

import sys
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

from lenet_jax.storage.files import make_folder


class EventFile:
    """An event file, written synchronously: tensorboardX's own writer hides errors in a thread."""

    def __init__(self, folder: Path, first_step: int | None = None, suffix: str = ""):
        """Opens a new file in `folder`.

        Args:
          folder: created if it does not exist.
          first_step: TensorBoard hides this and later steps of earlier files; None: it hides none.
          suffix: how the file's name ends.

        Raises:
          OSError: the file cannot be written.
        """
        with _torch_hidden():
            from tensorboardX.event_file_writer import EventsWriter  # late: takes 0.3 s
            from tensorboardX.proto.event_pb2 import Event, SessionLog  # pyright: ignore
            from tensorboardX.proto.summary_pb2 import Summary  # pyright: ignore

        self._event, self._summary = Event, Summary
        make_folder(folder)
        # The default name, seconds and host, would be the same for two files within a second.
        self._writer = EventsWriter(str(folder / "events"), f".{time.time_ns()}{suffix}")
        if first_step is not None:
            self._write(step=first_step, session_log=SessionLog(status=SessionLog.START))

    def add(self, step: int, row: Mapping[str, float | int]) -> None:
        """Writes the scalars of a step; raises OSError if they cannot be written."""
        for name, value in row.items():
            scalar = self._summary.Value(tag=name, simple_value=value)
            self._write(step=step, summary=self._summary(value=[scalar]))
        self._writer.flush()

    def add_image(self, name: str, png: bytes, width: int, height: int) -> None:
        """Writes a PNG of this size, in pixels; raises OSError if it cannot be written."""
        image = self._summary.Image(
            encoded_image_string=png, width=width, height=height, colorspace=3
        )
        value = self._summary.Value(tag=name, image=image)
        self._write(step=0, summary=self._summary(value=[value]))
        self._writer.flush()

    def close(self) -> None:
        """Closes the file."""
        self._writer.close()

    def _write(self, **fields: object) -> None:
        self._writer.write_event(self._event(wall_time=time.time(), **fields))


@contextmanager
def _torch_hidden() -> Iterator[None]:
    """Keeps tensorboardX from importing PyTorch, which takes two seconds and is not used here."""
    if "torch" in sys.modules:
        yield
        return
    sys.modules["torch"] = None  # pyright: ignore[reportArgumentType]
    try:
        yield
    finally:
        del sys.modules["torch"]
