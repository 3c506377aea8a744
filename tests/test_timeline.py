import subprocess
import sys
import threading
import time

import pytest

from lenet_jax import timeline


@pytest.fixture(autouse=True)
def empty(monkeypatch):
    monkeypatch.setattr(timeline, "_spans", [])


def test_spans_are_ordered_by_their_start_and_count_from_a_moment():
    with timeline.span("before"):
        pass
    start = time.perf_counter()
    with timeline.span("outer"):
        thread = threading.Thread(target=lambda: timeline.record("beside", time.perf_counter()))
        thread.start()
        thread.join()
    outer, beside = timeline.since(start)
    assert (outer["name"], beside["name"]) == ("outer", "beside")
    assert 0 <= outer["start"] <= beside["start"] <= beside["end"] <= outer["end"]


def test_a_span_that_fails_counts():
    with pytest.raises(ValueError, match="no"), timeline.span("failing"):
        raise ValueError("no")
    assert [span["name"] for span in timeline.since(0.0)] == ["failing"]


@pytest.mark.skipif(sys.platform != "linux", reason="elsewhere nothing says when a process began")
def test_a_process_began_before_its_first_line():
    code = "import time; now = time.perf_counter(); from lenet_jax import timeline;"
    code += " print(now - timeline.process_start())"
    started = time.perf_counter()
    before = float(subprocess.check_output([sys.executable, "-c", code]))
    assert 0 < before < time.perf_counter() - started + 0.02


def test_what_another_program_took_before_exec_does_not_count(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(timeline, "LONGEST_WAIT", -1e9)  # as if it had waited for longer
    age = time.perf_counter() - timeline.process_start()
    assert age == pytest.approx(time.process_time(), abs=0.5)
