"""What the hidden layers of a trained net give, and pictures of it side by side."""

import keras
import numpy as np


def outputs(model, images, names, grid=0):
    """{layer name: (n, h, w, maps) float32} for images (n, height, width, channels), 0..255.

    With a `grid` of g the maps are averaged in g x g cells: (n, g, g, maps).
    """
    maps = [model.get_layer(name).output for name in names]
    if grid:
        # Within the model: the maps of 10,000 images would fill the memory.
        maps = [_averaged(each, grid) for each in maps]
    found = keras.Model(model.inputs, maps).predict(
        images.astype("float32"), batch_size=256, verbose=0
    )
    return {
        name: each.astype("float32")
        for name, each in zip(names, keras.tree.flatten(found), strict=True)
    }


def _averaged(maps, grid):
    height, width = maps.shape[1:3]
    cell = (height // grid, width // grid)
    return keras.layers.AveragePooling2D(cell, dtype="float32")(maps)


def mosaic(tiles, gap=2):
    """(rows, columns, h, w, 3) in 0..1 -> one picture of them with white around each, `gap` wide.

    (rows * (h + 2 gap), columns * (w + 2 gap), 3)
    """
    rows, columns, height, width, _ = tiles.shape
    edges = ((0, 0), (0, 0), (gap, gap), (gap, gap), (0, 0))
    padded = np.pad(tiles, edges, constant_values=1)
    picture = padded.transpose(0, 2, 1, 3, 4)
    return picture.reshape(rows * (height + 2 * gap), columns * (width + 2 * gap), 3)


def in_colour(images):
    """(n, h, w, 1 or 3) in 0..255 -> (n, h, w, 3) in 0..1."""
    return np.broadcast_to(images / 255, (*images.shape[:3], 3))


def show_row_names(axes, names, rows):
    """Beside a mosaic of so many pixel rows."""
    for place, name in enumerate(names):
        axes.text(-3, (place + 0.5) * rows / len(names), name, ha="right", va="center", fontsize=8)
