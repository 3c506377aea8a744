"""Classifies an image with an exported network; needs only jax, flatbuffers and Pillow.

.venv/bin/python -m lenet_jax.export --workdir=runs/first --format=stablehlo
.venv/bin/python examples/use_stablehlo.py runs/first/export/model.stablehlo digit.png
"""

import sys
from pathlib import Path

import numpy as np
from jax import export
from PIL import Image

if len(sys.argv) != 3:
    print("usage: python use_stablehlo.py MODEL.stablehlo IMAGE", file=sys.stderr)
    sys.exit(2)
network = export.deserialize(bytearray(Path(sys.argv[1]).read_bytes()))
size = network.in_avals[0].shape[1]  # (batch, height, width, channels), for any batch
image = Image.open(sys.argv[2]).convert("L")  # light on dark, as in the training data
canvas = Image.new("L", (size, size))
canvas.paste(image, ((size - image.width) // 2, (size - image.height) // 2))
logits = network.call(np.asarray(canvas)[None, :, :, None])
print("class", int(logits[0].argmax()))
