"""Draws the README's pictures of a run: `python -m docs.draw_pictures runs/first`.

The filters and feature maps are those of `python -m lenet_jax.inspect --workdir=runs/first`, from a
folder named relative to the repository, for the page shows its name; Chromium takes its picture.
"""

import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

import lenet_jax

OUT = Path(__file__).parent / "pictures"
WIDTH, HEIGHT = 800, 640  # pixels


def main(run: Path) -> None:
    """Draws them."""
    OUT.mkdir(exist_ok=True)
    lenet_jax.load(str(run)).plot("feature_maps", path=str(OUT / "feature_maps.png"))
    page = run / "inspect" / "network.html"
    browser = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "chrome"))))
    with tempfile.TemporaryDirectory() as profile:
        switches = ("headless", "no-sandbox", "disable-gpu", "hide-scrollbars")
        command = [
            *(browser, *(f"--{switch}" for switch in switches), f"--user-data-dir={profile}"),
            *(f"--window-size={WIDTH},{HEIGHT}", f"--screenshot={OUT / 'live.png'}"),
            page.absolute().as_uri(),
        ]
        subprocess.run(command, check=True, capture_output=True, timeout=60)


if __name__ == "__main__":
    main(Path(sys.argv[1]))
