import io
import re
import subprocess
import sys

import pytest

from lenet_jax.terminal.console import Console, starting
from lenet_jax.terminal.progress import clock, epoch_lines

WORKDIR = "/a folder/[bold]with brackets[/]/:smile:/and a name that no terminal has room for/runs/é"
LAYERS = [("conv1", (14, 14, 6), 156), ("linear1", (120,), 36_120)]
NEXT = [f"python -m lenet_jax.inspect '--workdir={WORKDIR}'", "python -m lenet_jax.predict IMAGE"]
SUMMARY = {
    "status": "done",
    "test_accuracy": 0.9912,
    "test_loss": 0.03412,
    "test_examples": 10_000,
    "num_params": 49_102,
    "epochs": 12,
    "steps": 10_320,
    "train_seconds": 31.24,
    "images_per_second": 21_153.4,
    "seconds_to_first_step": 1.5,
}


def row(epoch, **change):
    metrics = {
        "epoch": epoch,
        "train/loss": 0.0653,
        "train/accuracy": 0.9802,
        "valid/loss": 0.0512,
        "valid/accuracy": 0.9844,
        "learning_rate": 0.0312,
        "images_per_second": 41_234.4,
    }
    return metrics | change


def print_run(stream):
    console = Console(stream)
    console.begin({"config": "configs/notes.py"}, WORKDIR)
    console.header(device="cpu", dataset="mnist", layers=LAYERS, num_params=49_102)
    console.note("resumed after\nepoch 1")
    console.warn("first line\nsecond line")
    with console.compiling():
        pass
    with console.epochs(12, 2) as epochs:
        for epoch in range(2, 13):
            epochs.finish(row(epoch), best=epoch == 3)
    console.result(SUMMARY, NEXT)


@pytest.fixture
def plain(monkeypatch):
    for name in ("FORCE_COLOR", "TTY_COMPATIBLE", "TTY_INTERACTIVE"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("COLUMNS", "40")
    return io.StringIO()


def visible_lines(stream):
    return re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", stream.getvalue()).replace("\r", "\n").split("\n")


def test_plain_output_is_neither_coloured_nor_overwritten_nor_wrapped(plain):
    print_run(plain)
    text = plain.getvalue()
    assert "\x1b" not in text
    assert "\r" not in text
    lines = text.splitlines()
    assert f"workdir        {WORKDIR}" in lines
    assert lines[-2:] == [f"next: {command}" for command in NEXT]
    assert lines.count("compiling…") == 1
    assert "resumed after epoch 1" in lines
    assert "warning: first line second line" in lines
    assert (
        "epoch  3/12  train loss 0.0653 acc  98.02 %  valid loss 0.0512 acc  98.44 %"
        "  lr 0.0312    41,234 img/s ★" in lines
    )
    assert len([line for line in lines if line.startswith("epoch ")]) == 11
    assert text.count("★") == 1


def test_header_has_a_table_of_aligned_layers(plain):
    print_run(plain)
    lines = plain.getvalue().splitlines()
    start = next(i for i, line in enumerate(lines) if line.startswith("layer"))
    table = lines[start : start + 4]
    assert [line.split() for line in table] == [
        ["layer", "output", "parameters"],
        ["conv1", "14×14×6", "156"],
        ["linear1", "120", "36,120"],
        ["total", "49,102"],
    ]
    assert len({len(line) for line in table}) == 1


def test_header_has_no_column_of_outputs_where_none_is_known(plain):
    layers = [("blocks.0.convolution", (), 156), ("linear", (), 1_250)]
    Console(plain).header(device="cpu", dataset="mnist", layers=layers, num_params=1_406)
    table = plain.getvalue().splitlines()[-5:-1]
    assert [line.split() for line in table] == [
        ["layer", "parameters"],
        ["blocks.0.convolution", "156"],
        ["linear", "1,250"],
        ["total", "1,406"],
    ]
    assert len({len(line) for line in table}) == 1


@pytest.mark.parametrize(
    ("is_terminal", "term", "expected"),
    [(True, "xterm", "starting\r|\x1b[K"), (True, "dumb", "|"), (False, "xterm", "|")],
)
def test_a_terminal_shows_at_once_that_a_command_has_started(
    plain, monkeypatch, is_terminal, term, expected
):
    monkeypatch.setattr(sys, "stdout", plain)
    monkeypatch.setattr(plain, "isatty", lambda: is_terminal)
    monkeypatch.setenv("TERM", term)
    with starting():
        plain.write("|")
    assert plain.getvalue() == expected


def test_result_counts_the_wrong_images(plain):
    Console(plain).result(SUMMARY, [])
    assert "test accuracy  99.12 %  (88 wrong of 10,000)" in plain.getvalue().splitlines()
    assert "training       31.2 s  (12 epochs, 10,320 steps)" in plain.getvalue().splitlines()


def test_result_omits_missing_values(plain):
    summary = dict.fromkeys(SUMMARY) | {"status": "diverged", "epochs": 3}
    Console(plain).result(summary, ["python -m a"])
    assert plain.getvalue().split("\n") == [
        "",
        "status         diverged",
        "",
        "next: python -m a",
        "",
    ]


@pytest.mark.parametrize("columns", [80, 120])
def test_a_terminal_shows_each_epoch_on_one_line(terminal, columns):
    stream = terminal(columns)
    print_run(stream)
    assert "\x1b[" in stream.getvalue()
    lines = visible_lines(stream)
    # Lines without a bar; the bar's are overwritten.
    epochs = [line for line in lines if re.match(r"epoch +\d+/12  train", line)]
    assert len(epochs) == 11
    assert max(map(len, epochs)) <= columns
    assert ("loss" in epochs[0]) == (columns == 120)
    assert [line.endswith("★") for line in epochs] == [False, True] + 9 * [False]
    bars = [line for line in lines if "left" in line]
    assert bars
    assert max(map(len, bars)) <= columns
    assert any("loss 0.0512 acc  98.44 % 41.2k img/s" in line for line in bars)
    assert any(line.startswith("compiled in") for line in lines)
    assert f"next: {NEXT[0]}" in lines  # in one piece, to be pasted
    assert f"workdir        {WORKDIR}" in lines


def header_in_two_parts(stream):
    """What is visible after its beginning, and at its end."""
    console = Console(stream)
    console.begin({"config": "notes.py"}, WORKDIR)
    begun = visible_lines(stream)[:-1]
    console.header(device="cpu", dataset="mnist", layers=LAYERS, num_params=49_102)
    return begun, visible_lines(stream)[:4]


def test_a_header_begins_at_once_on_a_terminal(terminal):
    begun, header = header_in_two_parts(terminal(80))
    assert begun == header[:2] == ["config         notes.py", f"workdir        {WORKDIR}"]
    assert header[2:] == ["device         cpu", "dataset        mnist"]


def test_a_header_begins_elsewhere_once_all_of_it_is_known(plain):
    begun, header = header_in_two_parts(plain)
    assert begun == []
    assert [line.split()[0] for line in header] == ["config", "workdir", "device", "dataset"]


def test_the_cursor_is_restored_after_an_error(terminal):
    stream = terminal(80)
    with pytest.raises(ZeroDivisionError), Console(stream).epochs(3):
        _ = 1 / 0
    with pytest.raises(ZeroDivisionError), Console(stream).compiling():
        _ = 1 / 0
    hidden, shown = stream.getvalue().count("\x1b[?25l"), stream.getvalue().count("\x1b[?25h")
    assert hidden == shown == 2
    assert "compiled" not in stream.getvalue()


def test_a_stream_without_unicode_gets_ascii(plain):
    raw = io.BytesIO()
    stream = io.TextIOWrapper(raw, encoding="ascii", newline="\n")
    print_run(stream)
    stream.flush()
    text = raw.getvalue().decode("ascii")
    assert "14x14x6" in text
    assert "compiling..." in text
    assert "img/s *\n" in text
    assert "runs/\\xe9\n" in text


def test_lines_are_flushed_at_once(plain):
    stream = io.TextIOWrapper(raw := io.BytesIO(), encoding="utf-8")
    console = Console(stream)
    with console.epochs(2) as epochs:
        epochs.finish(row(1))
        assert raw.getvalue().startswith(b"epoch 1/2 ")


@pytest.mark.parametrize(
    "change",
    [
        {},
        {"train/loss": 2.302585, "valid/loss": 1234.5678},
        {"train/accuracy": 1.0, "valid/accuracy": 1.0, "learning_rate": 1.234e-05},
        {"images_per_second": 987_654.3, "learning_rate": 1.04e-12},
        {"train/loss": float("nan"), "valid/loss": float("inf")},
    ],
)
def test_short_epoch_lines_fit_80_columns_and_align(change):
    short = epoch_lines(row(7, **change), 999)[1]
    assert len(short + " ★") <= 80
    without = epoch_lines(row(123), 999)[1]
    assert short.index("valid") == without.index("valid")


def test_measurements_are_in_the_longest_line_alone():
    measured = row(7, **{"valid/margin": -1.23456})
    first, *others = epoch_lines(measured, 9, ["margin"])
    assert "acc  98.44 %  margin -1.235  lr" in first
    assert others == epoch_lines(measured, 9)


def test_an_epoch_without_validation(plain):
    metrics = {key: value for key, value in row(1).items() if "valid" not in key}
    with Console(plain).epochs(3) as epochs:
        epochs.finish(metrics)
    line = "epoch 1/3  train loss 0.0653 acc  98.02 %  lr 0.0312    41,234 img/s\n"
    assert plain.getvalue() == line


def test_a_terminal_breaks_what_is_too_long_between_words(terminal):
    stream = terminal(60)
    console = Console(stream)
    dataset = "mnist: 55,000 train, 5,000 validation, 10,000 test images of 32×32×1, 10 classes"
    console.sweep_header(device="2 × cpu", datasets=[dataset], workdir=WORKDIR, plan="17 members")
    console.note(dataset)
    lines = [line.rstrip() for line in visible_lines(stream)]
    assert f"workdir        {WORKDIR}" in lines
    short = [line for line in lines if WORKDIR not in line]
    assert max(map(len, short)) <= 60
    assert short[1:3] == [
        "dataset        mnist: 55,000 train, 5,000 validation, 10,000",
        "               test images of 32×32×1, 10 classes",
    ]
    assert short[-3:-1] == [
        "mnist: 55,000 train, 5,000 validation, 10,000 test images of",
        "32×32×1, 10 classes",
    ]


def test_rich_is_imported_late():
    code = "import sys, lenet_jax.terminal.console; assert not {'rich', 'jax'} & set(sys.modules)"
    subprocess.run([sys.executable, "-c", code], check=True)


def test_release_restores_the_cursor_during_a_bar(monkeypatch):
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.setenv("FORCE_COLOR", "1")
    monkeypatch.setenv("TTY_INTERACTIVE", "1")
    stream = io.StringIO()
    console = Console(stream)
    with console.epochs(2):
        assert "\x1b[?25l" in stream.getvalue()
        hidden = len(stream.getvalue())
        console.release()
        assert "\x1b[?25h" in stream.getvalue()[hidden:]


def test_release_prints_nothing_without_a_terminal(plain):
    stream = io.StringIO()
    Console(stream).release()
    assert stream.getvalue() == ""


def advance_sweep(stream):
    console = Console(stream)
    with console.member_epochs(1200) as progress:
        for chunk in range(2):
            progress.advance(600, 33_000_000)
            progress.finish(f"chunk {chunk}: members 0–7, best valid acc 98.60 % (member 6)")


def test_a_sweeps_chunks_are_lines_with_the_time_left(plain):
    advance_sweep(plain)
    first, last = plain.getvalue().splitlines()
    assert re.fullmatch(
        r"chunk 0: members .* \(member 6\); 600/1,200 member-epochs, [\d,]+ img/s, 0:00 left", first
    )
    assert "1,200/1,200 member-epochs" in last


def test_the_speed_of_a_sweep_is_without_what_compiled(plain, monkeypatch):
    now = [0.0]
    monkeypatch.setattr("lenet_jax.terminal.progress.time.perf_counter", lambda: now[0])
    with Console(plain).member_epochs(4) as progress:
        progress.compiling()
        now[0] += 100
        progress.skip(1)
        progress.finish("chunk 0")
        now[0] += 2
        progress.advance(1, 600)
        progress.compiling()
        now[0] += 100
        progress.skip(1)
        progress.finish("chunk 1")
    assert plain.getvalue().splitlines() == [
        "compiling…",
        "chunk 0; 1/4 member-epochs",
        "chunk 1; 3/4 member-epochs, 300 img/s, 0:02 left",
    ]


@pytest.mark.parametrize("columns", [60, 80, 120])
def test_a_sweeps_bar_fits_the_terminal(terminal, columns):
    stream = terminal(columns)
    advance_sweep(stream)
    lines = visible_lines(stream)
    assert next(line for line in lines if line.startswith("chunk 1: ")).endswith("(member 6)")
    bars = [line.rstrip() for line in lines if line.startswith("member-epochs ")]
    assert any("1200/1200" in line and line.endswith(" 00:00 left") for line in bars)
    assert max(map(len, bars)) <= columns


@pytest.mark.parametrize(("seconds", "text"), [(0.2, "0:00"), (59.6, "1:00"), (3723.0, "1:02:03")])
def test_durations_are_formatted_as_hours_minutes_seconds(seconds, text):
    assert clock(seconds) == text
