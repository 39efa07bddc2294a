"""Trained weights on your own images: 79.8 % on photographs of 8 classes, 3 seeds; 96 CPU s."""

import functools
from dataclasses import dataclass
from typing import Any, Literal

import zoo.recipe
import zoo.text


@dataclass(frozen=True)
class Recipe(zoo.recipe.Recipe):
    """A small set of photographs, started from trained weights. --data is all that it needs.

    benchmarks/finetuning.py measures it: 960 photographs of 64 x 64 pixels from Tiny ImageNet, last
    epoch, judged on 3,040 others; 156 s on two cores that were busy with other work, too. The
    settings were chosen on photographs of the same classes, some of which judge here, so the figure
    is a little too good.
    """

    data: str = ""
    """Your images: a folder of class folders, a TFDS name, or an .npz file."""
    weights: str = "cifar10"
    """Trained weights to start from: a name of the zoo, a run folder, an export, or a .keras file.
    The images get the size and the channels that these were trained with."""
    backbone: str | None = None
    """Start from a net of keras.applications in place of --weights, such as mobilenet_v2."""
    backbone_weights: str = "imagenet"
    """Weights of the backbone. imagenet: download them. Or a file of `save_weights`."""
    freeze: tuple[Literal["until"], str] | None = None
    """until LAYER: train only the layers behind this one, for example: --freeze until mlpconv2."""
    epochs: int = 12
    # With 80 photographs of 8 classes, two seeds: 63.5 % in batches of 32, 67.0 % in batches of 8.
    batch_size: int = 0
    """Number of images in a batch. 0: a twenty-fourth of the training images, from 8 to 64."""
    learning_rate: float = 1e-3
    """Peak learning rate of Adam. It rises for 5 % of the steps; then a cosine takes it to zero."""
    weight_decay: float = 0.0
    pad_and_crop: int = 4
    """Pad each training image by this many pixels, and crop it at random. 0: do neither."""
    flip: bool = True
    """Mirror half of the training images, left to right. Turn it off for images of writing."""
    patience: int = 0
    """Stop after so many epochs without a lower loss on the images that --validation holds out.
    The model is that of the last epoch. 0: train all epochs."""

    def check(self):
        super().check()
        held_out = self.judged_on == "validation" or not self.patience
        self.require("patience", held_out, "for held-out images: add --validation 0.2")
        self.require("data", self.data, "the folder of your images, with a folder for each class")

    @functools.cached_property
    def trained(self):
        """The model to start from; None with a backbone."""
        from zoo.models import pretrained

        try:
            return None if self.backbone else pretrained.load(self.weights)
        except ValueError as error:
            raise zoo.recipe.RecipeError(f"--weights: {error}") from error

    @property
    def reading(self) -> dict[str, Any]:
        """The arguments of `zoo.data.load`: by default the size and channels of the weights."""
        height, width, channels = (None, None, 3) if self.backbone else self._trained_shape
        size = self.image_size or ((height, width) if height else None)
        channels = self.channels or channels
        return {**super().reading, "image_size": size, "channels": channels}

    @property
    def _trained_shape(self):
        return self.trained.trunk.input_shape[1:]

    def augmentation(self):
        from zoo.data import Augmentation

        return Augmentation(pad_and_crop=self.pad_and_crop, flip=self.flip)

    def model(self, data, steps):
        from zoo.models import backbones

        if self.backbone:
            model = backbones.backbone(
                self.backbone, data.image_shape, data.classes, weights=self.backbone_weights
            )
        else:
            same_classes = self.trained.labels == list(map(str, data.label_names))
            model = self.trained.fitted(data.image_shape, data.classes, keep_head=same_classes)
        if self.freeze:
            self._freeze(model, self.freeze[1])
        return model

    def _freeze(self, model, last):
        """Freeze the layers up to `last`, which is one of those before the head."""
        names = [layer.name for layer in model.layers]
        before_head = names[: names.index("class_maps")]
        if last not in before_head:
            hint = zoo.text.did_you_mean(last, before_head, f"There are {', '.join(before_head)}.")
            raise zoo.recipe.RecipeError(f"--freeze until: the net has no layer {last!r}. {hint}")
        for layer in model.layers[: names.index(last) + 1]:
            layer.trainable = False

    def callbacks(self):
        import keras

        stop = keras.callbacks.EarlyStopping("val_loss", patience=self.patience)
        return [stop] if self.patience else []

    def optimizer(self, steps):
        import keras

        warmup = max(1, steps // 20)
        rate = keras.optimizers.schedules.CosineDecay(
            0.0, max(1, steps - warmup), warmup_target=self.learning_rate, warmup_steps=warmup
        )
        return keras.optimizers.Adam(rate, weight_decay=self.weight_decay or None)
