"""Digits as a hand draws them: strokes of points, of several shapes, slants, sizes and pens."""

import numpy as np

PENS = (16, 26, 38)  # pixels of the page's sheet, whose side is SHEET
SHEET = 360

# The strokes of each digit: points x,y that they go through, in hundredths of a square, downwards.
DIGITS = {
    0: ["55,2 20,20 12,55 30,92 62,95 85,60 78,20 50,3"],
    1: ["52,0 50,50 47,100"],
    2: ["15,25 35,3 70,8 75,35 45,68 12,96", "12,96 50,93 88,95"],
    3: ["18,10 50,0 78,18 66,40 42,47 75,58 82,80 52,100 15,90"],
    4: ["35,2 20,35 12,60 50,62 90,58", "68,20 66,60 63,100"],
    5: ["28,5 25,25 22,45 55,40 80,62 68,92 35,100 12,88", "28,5 55,5 85,3"],
    6: ["65,2 35,25 18,60 28,92 60,98 80,75 62,55 35,62 22,78"],
    7: ["12,8 50,6 85,5", "85,5 62,45 42,100"],
    8: ["72,12 45,0 25,20 50,45 78,72 50,100 22,75 50,47 76,22 72,12"],
    9: ["75,20 50,3 25,22 40,45 68,38 76,15 72,55 62,100"],
}


def draw_digit(digit: int, seed: int) -> list[dict]:
    """The strokes of a digit as the page keeps them: points of its sheet, and the pen's width."""
    rng = np.random.default_rng([digit, seed])
    size, slant, turn = rng.uniform(140, 250), rng.uniform(-0.2, 0.3), rng.uniform(-0.12, 0.12)
    stretch, middle = rng.uniform(0.65, 1.0), rng.uniform(165, 195, 2)
    affine = size * np.array([[stretch, -slant], [0, 1]])
    rotation = np.array([[np.cos(turn), -np.sin(turn)], [np.sin(turn), np.cos(turn)]])
    wobble = rng.normal(0, 0.015, (len(DIGITS[digit]), 12, 2))
    pen = PENS[seed % len(PENS)]
    strokes = []
    for points, noise in zip(DIGITS[digit], wobble, strict=True):
        corners = np.array([corner.split(",") for corner in points.split()], float) / 100
        curve = _smooth(corners + noise[: len(corners)]) - 0.5
        placed = np.clip(curve @ affine.T @ rotation.T + middle, 24, SHEET - 24)
        strokes.append({"points": [{"x": x, "y": y} for x, y in placed.tolist()], "width": pen})
    return strokes


def _smooth(points: np.ndarray) -> np.ndarray:
    """A curve through points, as a hand takes it (Catmull and Rom's)."""
    padded = np.concatenate([2 * points[:1] - points[1:2], points, 2 * points[-1:] - points[-2:-1]])
    t = np.linspace(0, 1, 8, endpoint=False)[:, None]
    pieces = []
    for a, b, c, d in zip(padded, padded[1:], padded[2:], padded[3:], strict=False):
        powers = 2 * b, c - a, 2 * a - 5 * b + 4 * c - d, 3 * (b - c) + d - a
        pieces.append(sum(0.5 * factor * t**k for k, factor in enumerate(powers)))
    return np.concatenate([*pieces, points[-1:]])
