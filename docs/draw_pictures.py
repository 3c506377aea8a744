"""Draws the documents' pictures of a run: `python -m docs.draw_pictures runs/first`.

The run has been inspected, `python -m lenet_jax.inspect --workdir=runs/first`, by a relative name,
for its page shows it; Chromium takes the picture of the page.
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
    shutil.copy(run / "inspect" / "journey.png", OUT)
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
