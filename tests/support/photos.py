"""Synthetic photographs of printed digits."""

from pathlib import Path

import matplotlib
import numpy as np
from PIL import Image, ImageDraw, ImageFont

FONTS = Path(matplotlib.get_data_path()) / "fonts" / "ttf"


def photo(digit, font="DejaVuSans", paper=235, ink=30, at=(30, 90), size=(200, 300), noise=4):
    """A digit on paper, off centre, unevenly lit, with camera noise."""
    image = Image.new("L", size, paper)
    letters = ImageFont.truetype(FONTS / f"{font}.ttf", min(size) * 3 // 5)
    ImageDraw.Draw(image).text(at, str(digit), fill=ink, font=letters)
    light = np.linspace(-15, 15, size[1])[:, None]
    grain = np.random.default_rng(digit).normal(0, noise, (size[1], size[0]))
    return np.clip(np.asarray(image) + light + grain, 0, 255).astype(np.uint8)
