"""The outputs of a trained net's hidden layers, and mosaics of pictures."""

import keras
import numpy as np


def outputs(model, images, names, grid=0):
    """Return {layer name: its outputs for some images, float32}.

    Arguments:
        model: the net.
        images: (n, height, width, channels) in 0..255.
        names: the names of the layers.
        grid: average the maps in grid x grid cells; 0 for whole maps.

    Returns:
        Arrays (n, h, w, maps); with a grid, (n, grid, grid, maps).
    """
    maps = [model.get_layer(name).output for name in names]
    if grid:
        # The model averages. Else the maps of 10,000 images would fill the memory.
        maps = [_averaged(layer_maps, grid) for layer_maps in maps]
    arrays = keras.Model(model.inputs, maps).predict(
        images.astype("float32"), batch_size=256, verbose=0
    )
    return {
        name: array.astype("float32")
        for name, array in zip(names, keras.tree.flatten(arrays), strict=True)
    }


def _averaged(maps, grid):
    height, width = maps.shape[1:3]
    cell = (height // grid, width // grid)
    return keras.layers.AveragePooling2D(cell, data_format="channels_last", dtype="float32")(maps)


def mosaic(tiles, gap=2):
    """Join tiles to one picture, with a white border `gap` pixels wide around each.

    (rows, columns, h, w, 3) in 0..1 -> (rows * (h + 2 gap), columns * (w + 2 gap), 3)
    """
    rows, columns, height, width, _ = tiles.shape
    edges = ((0, 0), (0, 0), (gap, gap), (gap, gap), (0, 0))
    padded = np.pad(tiles, edges, constant_values=1)
    picture = padded.transpose(0, 2, 1, 3, 4)
    return picture.reshape(rows * (height + 2 * gap), columns * (width + 2 * gap), 3)


def in_colour(images):
    """Convert grey or colour images: (n, h, w, 1 or 3) in 0..255 -> (n, h, w, 3) in 0..1."""
    return np.broadcast_to(images / 255, (*images.shape[:3], 3))


def show_row_names(axes, names, rows):
    """Write the names of the tile rows beside a mosaic that is `rows` pixels high."""
    for place, name in enumerate(names):
        axes.text(-3, (place + 0.5) * rows / len(names), name, ha="right", va="center", fontsize=8)
