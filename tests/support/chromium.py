"""Pages as Chromium has them."""

import os
import re
import shutil
import subprocess
from pathlib import Path

import pytest

CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "chrome"))), None)


def browse(page: Path, folder: Path, width: int = 800) -> tuple[str, list[str]]:
    """The page as Chromium has it once loaded, and what its console says; `width` in pixels."""
    assert CHROMIUM
    switches = [
        *("headless", "no-sandbox", "disable-gpu", "disable-quic", "no-first-run", "disable-sync"),
        *("disable-background-networking", "disable-component-update", "dump-dom"),
        "enable-logging=stderr",
    ]
    done = subprocess.run(
        [
            CHROMIUM,
            *(f"--{switch}" for switch in switches),
            f"--user-data-dir={folder / 'profile'}",
            f"--window-size={width},844",
            page.as_uri(),
        ],
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout, re.findall(r"CONSOLE.*", done.stderr)


def need_chromium() -> None:
    """Skips a test without Chromium, or fails it where that must be installed."""
    if CHROMIUM is None:
        assert not os.environ.get("LENET_JAX_REQUIRE_CHROMIUM"), "chromium is not installed"
        pytest.skip("chromium is not installed: apt-get install chromium")
