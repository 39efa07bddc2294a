"""Answer the ten questions of docs/questions.md with numbers that are measured here.

`python benchmarks/questions.py 3` answers the third one. Each takes at most five minutes on two
cores. The nets are small and their training is short. The numbers show what an answer means. They
do not show which method is better.
"""

import itertools
import math
from dataclasses import dataclass
from pathlib import Path

import keras
import numpy as np
import tensorflow as tf
import tyro
from tyro.conf import Positional

import zoo
from zoo.data import load
from zoo.experiments.studies import (
    drawing,
    feature_maps,
    hidden,
    nin_confidence_maps,
    probes,
    spread,
    translations,
)
from zoo.measures import softmax
from zoo.saving import shipped
from zoo.terminal import say, show

TAPS = ("mlpconv1", "mlpconv2")  # the layers that have companions
WEIGHT = 1.0  # of each companion, as in the authors' code
ARMS = {"without companions": False, "with companions": True}


@dataclass(frozen=True)
class Settings:
    question: Positional[int]
    """Number of the question, 1 to 10."""
    seeds: int = 3
    """Number of trainings of each kind, in questions 1, 2 and 4."""
    steps: int = 200
    """Number of steps of a training."""
    images: int = 1000
    """Number of test images, in questions 4, 5 and 9."""
    out: Path = Path("results")
    """Folder of the picture of question 4."""


def net(data, seed, companions):
    """Return a small NIN without normalization. The seed settles its first weights."""
    keras.utils.set_random_seed(seed)
    model = zoo.nin(data.image_shape, data.classes, variant="plain", width=0.25, dropout=0.0)
    if companions:
        heads = {layer: zoo.CompanionHead(data.classes) for layer in TAPS}
        model = zoo.DeeplySupervised(model, heads, companion_weight=WEIGHT)
    optimizer = keras.optimizers.SGD(0.02, momentum=0.9)
    model.compile(optimizer, zoo.SoftmaxCrossEntropy(), metrics=["accuracy"])
    return model


def trained(data, seed, companions, steps):
    """Return the trunk of `net` after some steps of 64 images. The seed settles their order."""
    model = net(data, seed, companions)
    model.fit(data.training_batches(64, seed=seed), steps_per_epoch=steps, shuffle=False, verbose=0)
    return shipped(model)


def cells(trunk, *images):
    """Return {layer: its maps, averaged in 2 x 2 cells: (n, 4, maps)} for each array of images."""
    found = [hidden.outputs(trunk, each, TAPS, grid=2) for each in images]
    return [{tap: maps.reshape(len(maps), 4, -1) for tap, maps in each.items()} for each in found]


def discriminative(settings):
    """How does deep supervision make hidden features discriminative?"""
    train, test = load("digits", "train"), load("digits", "test")
    sees = {
        "the mean of each map, as the companion does": lambda maps: maps.mean(axis=1),
        "each map in 2 x 2 cells": lambda maps: maps.reshape(len(maps), -1),
    }
    found = {(tap, what, arm): [] for tap in TAPS for what in sees for arm in ARMS}
    for seed in range(settings.seeds):
        for arm, companions in ARMS.items():
            trunk = trained(train, seed, companions, settings.steps)
            seen, unseen = cells(trunk, train.images, test.images)
            for tap in TAPS:
                for what, numbers in sees.items():
                    pair = numbers(seen[tap]), train.labels, numbers(unseen[tap]), test.labels
                    found[tap, what, arm].append(probes.probe(*pair))
    rows = [
        (tap, what, *(spread(found[tap, what, arm], 1) for arm in ARMS))
        for tap in TAPS
        for what in sees
    ]
    return ("Layer", "A linear classifier that sees", *(f"{arm} (%)" for arm in ARMS)), rows


def aspects(settings):
    """Which three aspects of convolutional nets does Deeply-Supervised Nets look at?"""
    train, test = load("digits", "train"), load("digits", "test")
    noise = np.random.default_rng(0).normal(0, 64, test.images.shape)
    images = test.images.astype("float32")
    noisy = np.clip(images + noise, 0, 255)
    early = max(1, settings.steps // 10)
    rows = {
        "1 transparency: mlpconv1's classifier agrees with the output (%)": 1,
        "2 discriminative: mlpconv1's classifier is right (%)": 1,
        "2 robust: the same on noisy images (%)": 1,
        f"3 training: test accuracy after {early} steps (%)": 1,
        "3 training: mean square gradient of the first kernel, step 1 (1e-6)": 2,
    }
    found = {arm: [] for arm in ARMS}
    for seed in range(settings.seeds):
        for arm, companions in ARMS.items():
            gradient = _step(net(train, seed, companions), train)
            model = net(train, seed, companions)
            history = model.fit(
                train.training_batches(64, seed=seed),
                steps_per_epoch=early,
                epochs=settings.steps // early,
                validation_data=(images, test.labels),
                shuffle=False,
                verbose=0,
            ).history
            trunk = shipped(model)
            answers = trunk.predict(images, batch_size=256, verbose=0).argmax(1)
            parts = cells(trunk, train.images, images, noisy)
            seen, clean, disturbed = (maps["mlpconv1"].mean(axis=1) for maps in parts)
            pairs = (clean, answers), (clean, test.labels), (disturbed, test.labels)
            values = [probes.probe(seen, train.labels, *pair) for pair in pairs]
            values += [100 * history["val_accuracy"][0], 1e6 * np.mean(gradient**2)]
            found[arm].append(values)
    by_row = zip(*(np.transpose(found[arm]) for arm in ARMS), strict=True)
    table = [
        (measure, *(spread(of_arm, digits) for of_arm in of_arms))
        for (measure, digits), of_arms in zip(rows.items(), by_row, strict=True)
    ]
    return ("Aspect and measure", *ARMS), table


def _step(model, data):
    """Return the gradient of the first kernel that one step of a model's training has.

    With plain SGD at a rate of 1, it is what the step takes from the kernel.
    """
    model.compile(keras.optimizers.SGD(1.0), zoo.SoftmaxCrossEntropy())
    kernel = shipped(model).get_layer("mlpconv1").trainable_variables[0]
    before = keras.ops.convert_to_numpy(kernel)
    model.train_on_batch(data.images[:256].astype("float32"), data.labels[:256])
    return before - keras.ops.convert_to_numpy(kernel)


def backpropagation(settings):
    """How does deep supervision differ from normal training, and in backpropagation?"""
    data = load("digits", "train")
    model = net(data, 0, True)
    trunk, loss = model.trunk, zoo.SoftmaxCrossEntropy()
    maps = keras.Model(trunk.inputs, [*(trunk.get_layer(tap).output for tap in TAPS), trunk.output])
    kernel = trunk.get_layer("mlpconv1").trainable_variables[0].value
    labels = data.labels[:256]
    with tf.GradientTape(persistent=True) as tape:
        *hidden_maps, output = maps([data.images[:256].astype("float32")])
        losses = {"the output": loss(labels, output)}
        for layer, of_layer in zip(TAPS, hidden_maps, strict=True):
            scores = model.companions[layer](of_layer)
            losses[f"{WEIGHT} x the companion on {layer}"] = WEIGHT * loss(labels, scores)
    parts = {
        name: (float(value), tape.gradient(value, kernel).numpy()) for name, value in losses.items()
    }
    whole, total = (sum(each) for each in zip(*parts.values(), strict=True))
    alone, together = _step(net(data, 0, False), data), _step(net(data, 0, True), data)
    parts["the sum of these three"] = whole, total
    parts["a normal step"] = parts["the output"][0], alone
    parts["a deeply supervised step"] = whole, together
    rows = [
        (name, f"{value:.3f}", f"{_size(gradient):.5f}", f"{_cosine(gradient, alone):.2f}")
        for name, (value, gradient) in parts.items()
    ]
    apart = np.abs(total - together).max() / np.abs(total).max()
    say(f"The gradient of the deeply supervised step is the sum, but for {apart:.0e} of it.")
    return ("Loss of", "Value", "Size of its gradient", "Cosine to a normal step"), rows


def _size(gradient):
    return np.sqrt(np.mean(gradient**2))


def _cosine(a, b):
    return np.sum(a * b) / np.sqrt(np.sum(a**2) * np.sum(b**2))


def maps_of_figure_3(settings):
    """What differs in the feature maps of figure 3?"""
    train, test = load("cifar10", "train"), load("cifar10", "test")
    images, labels = test.images[: settings.images], test.labels[: settings.images]
    chosen = np.unique(labels, return_index=True)[1]
    figure, panels = drawing.panels("CIFAR-10: the top 30 % of 8 maps of mlpconv1", 2, height=4.6)
    found = {}
    for (arm, companions), axes in zip(ARMS.items(), panels, strict=True):
        found[arm] = []
        for seed in range(settings.seeds):
            trunk = trained(train, seed, companions, settings.steps)
            maps = hidden.outputs(trunk, images, ["mlpconv1"])["mlpconv1"]
            same, other = feature_maps.likeness(maps, labels)
            found[arm].append((same, other, same - other, same / other))
            if seed == 0:
                largest = np.argsort(-maps[chosen].mean(axis=(0, 1, 2)), kind="stable")[:8]
                axes.imshow(hidden.mosaic(feature_maps.heat(maps[chosen][..., largest])))
                axes.set_axis_off()
                axes.set_title(arm, fontsize=drawing.TEXT, color=drawing.INK)
    settings.out.mkdir(parents=True, exist_ok=True)
    figure.savefig(settings.out / "question_4.png", dpi=120)
    say(f"The figure  {settings.out / 'question_4.png'}")
    rows = [(arm, *(spread(each, 3) for each in np.transpose(found[arm]))) for arm in ARMS]
    return ("Net", "Correlation, same class", "Other classes", "Difference", "Ratio"), rows


def smoothing(settings):
    """How do label smoothing and soft targets differ?"""
    test, share = load("cifar10", "test"), 0.1
    images, labels = test.images[: settings.images], test.labels[: settings.images]
    images, names = images.astype("float32"), test.label_names
    logits = zoo.nin(weights="cifar10").predict(images, batch_size=128, verbose=0)
    uniform = np.full_like(logits, 1 / len(names))
    smoothed = zoo.smoothed_softmax_cross_entropy(labels, logits, share)
    hard = zoo.softmax_cross_entropy(labels, logits)
    of_uniform = zoo.softmax_cross_entropy(uniform, logits)
    apart = np.abs(np.asarray(smoothed) - (1 - share) * hard - share * of_uniform).max()
    say(f"Smoothing and a uniform teacher: the losses differ by at most {apart:.0e} nats.")
    rows = []
    for index in np.unique(labels):
        soft = softmax(logits[labels == index] / 4).mean(axis=0)
        order = [other for other in np.argsort(-soft) if other != index]
        most, least = order[0], order[-1]
        rows.append(
            (
                names[index],
                f"{100 * share / len(names):.1f}",
                f"{names[most]} {100 * soft[most]:.1f}",
                f"{names[least]} {100 * soft[least]:.1f}",
            )
        )
    return ("Class", "Smoothed: each other (%)", "Soft: the most (%)", "Soft: the least (%)"), rows


def temperature(settings):
    """What does the temperature of a softmax do?"""
    test = load("cifar10", "test")
    image = test.images[:1].astype("float32")
    teacher = zoo.nin(weights="cifar10").predict(image, verbose=0)[0].astype("float64")
    student = zoo.nin(weights="cifar10_student").predict(image, verbose=0)[0].astype("float64")
    order = np.argsort(-teacher)[:3]
    centred = (student - student.mean()) - (teacher - teacher.mean())
    rows = []
    for value in (1, 2, 4, 8, 20, 100):
        p, q = softmax(teacher / value), softmax(student / value)
        gradient, limit = value * (q - p), centred / len(teacher)
        apart = np.linalg.norm(gradient - limit) / np.linalg.norm(limit)
        entropy = -np.sum(p * np.log(np.maximum(p, 1e-300)))
        rows.append(
            (f"{value}", *(f"{100 * p[k]:.1f}" for k in order), f"{entropy:.3f}", f"{apart:.2f}")
        )
    names = test.label_names
    say(f"The image is a {names[test.labels[0]]}. The entropy is {math.log(10):.3f} nats at most.")
    classes = (f"{names[k]} (%)" for k in order)
    return ("Temperature", *classes, "Entropy (nats)", "Gradient's distance from the limit"), rows


def latent_concepts(settings):
    """What does a conventional convolution assume, and what does mlpconv do about it?"""
    patches = np.array([*itertools.product((-1, 1), repeat=9)], "float32").reshape(-1, 3, 3, 1)
    first, last = patches[:, 0, 0, 0], patches[:, 2, 2, 0]
    concepts = {"two corners are both bright": (first > 0) & (last > 0)}
    concepts["two corners are alike"] = first == last
    rows = []
    for concept, present in concepts.items():
        row = [concept]
        for mlp in (False, True):
            keras.utils.set_random_seed(0)
            layer = (
                zoo.MLPConv((16, 1), 3, padding="valid", final_activation=None)
                if mlp
                else keras.layers.Conv2D(1, 3)
            )
            model = keras.Sequential([keras.Input((3, 3, 1)), layer, keras.layers.Flatten()])
            loss = keras.losses.BinaryCrossentropy(from_logits=True)
            model.compile(keras.optimizers.Adam(0.05), loss)
            model.fit(patches, present, batch_size=512, epochs=settings.steps // 4, verbose=0)
            detected = model.predict(patches, verbose=0)[:, 0] > 0
            row.append(f"{100 * np.mean(detected == present):.0f}")
        rows.append(tuple(row))
    return ("Concept of a 3 x 3 patch", "One convolution is right (%)", "mlpconv (%)"), rows


def shared(settings):
    """What does it mean that all local receptive fields share the MLP?"""
    keras.utils.set_random_seed(0)
    layer = zoo.MLPConv((192, 160, 96), 5)
    image = np.zeros((1, 32, 32, 3), "float32")
    image[:, 8:20, 8:20] = np.random.default_rng(0).uniform(0, 1, (12, 12, 3))
    maps = np.asarray(layer(image))
    moved = np.asarray(layer(translations.moved(image, 4, 3)))
    apart = np.abs(moved - translations.moved(maps, 4, 3)).max() / np.abs(maps).max()
    weights = layer.count_params()
    layer(np.zeros((1, 64, 64, 3), "float32"))
    return ("Measure", "Value"), [
        ("image moved by 4 and 3 pixels: its maps and the moved maps differ by", f"{apart:.0e}"),
        ("weights of the layer, images of 32 x 32", f"{weights:,}"),
        ("weights of the layer, images of 64 x 64", f"{layer.count_params():,}"),
        ("weights with an own MLP at each of 32 x 32 places", f"{32 * 32 * weights:,}"),
    ]


def pooling(settings):
    """What are the advantages of global average pooling?"""
    test = load("cifar10", "test")
    images, labels = test.images[: settings.images], test.labels[: settings.images]
    maps = hidden.outputs(zoo.nin(weights="cifar10"), images, ["class_maps"])["class_maps"]
    heads = {}
    for head in ("pool", "dense"):
        layers = zoo.nin(head=head).layers
        first = [layer.name for layer in layers].index("class_maps") + 1
        heads[head] = keras.Sequential([keras.Input((8, 8, 10)), *layers[first:]])
    inside = np.zeros((1, 8, 8, 10), "float32")
    inside[:, 2:5, 2:5] = np.random.default_rng(0).uniform(size=(3, 3, 10))
    moved = translations.moved(inside, 3, -2)
    change = [np.abs(np.asarray(each(moved) - each(inside))).max() for each in heads.values()]
    right = nin_confidence_maps.predicted(maps) == labels
    strongest = nin_confidence_maps.strongest(maps) == labels
    return ("Measure", "Pooling", "Fully connected"), [
        ("weights after the class maps", *(f"{each.count_params():,}" for each in heads.values())),
        (
            "change of the logits when the class maps move within the frame",
            *(f"{each:.1g}" for each in change),
        ),
        ("the true class's map has the largest mean (%)", f"{100 * np.mean(right):.1f}", ""),
        ("the true class's map has the largest value (%)", f"{100 * np.mean(strongest):.1f}", ""),
    ]


def four_terms(settings):
    """Which four terms does the objective of Deeply-Supervised Nets have?"""
    train, gamma, decay = load("digits", "train"), 0.1, 1e-3
    l2 = keras.regularizers.L2(decay)
    keras.utils.set_random_seed(0)
    trunk = zoo.nin(train.image_shape, 10, width=0.25, dropout=0.0, kernel_regularizer=l2)
    heads = {layer: zoo.CompanionHead(10, kernel_regularizer=l2) for layer in TAPS}
    model = zoo.DeeplySupervised(trunk, heads, companion_weight=WEIGHT, threshold=gamma)
    loss = zoo.MulticlassSquaredHinge()
    model.compile(keras.optimizers.SGD(0.01, momentum=0.9), loss)
    before = _terms(model, loss, train, gamma)
    batches = train.training_batches(64, seed=0)
    model.fit(batches, steps_per_epoch=settings.steps, shuffle=False, verbose=0)
    after = _terms(model, loss, train, gamma)
    rows = [(name, f"{before[name]:.4f}", f"{after[name]:.4f}") for name in before]
    return ("Term", "Before the training", "After it"), rows


def _terms(model, loss, data, gamma):
    """Return {term of equation 3: its value}, and what the model says that it minimizes."""
    images, labels = data.images[:256].astype("float32"), data.labels[:256]
    logits = model.exits(images)
    found = {
        "||w||^2 of the net": float(sum(model.trunk.losses)),
        "L, the loss of the output": float(loss(labels, logits["output"])),
    }
    total = sum(found.values())
    for layer, head in model.companions.items():
        norm, hidden_loss = float(sum(head.losses)), float(loss(labels, logits[layer]))
        bracket = max(0.0, norm + hidden_loss - gamma)
        found[f"||w||^2 of the companion on {layer}"] = norm
        found[f"l, the loss of the companion on {layer}"] = hidden_loss
        found[f"[||w||^2 + l - {gamma}]+ of the companion on {layer}"] = bracket
        total += WEIGHT * bracket
    found[f"sum: ||w||^2 + L + {WEIGHT} x the brackets"] = total
    found["what the model minimizes"] = model.evaluate(
        images, labels, batch_size=len(images), verbose=0, return_dict=True
    )["loss"]
    return found


QUESTIONS = (
    discriminative,
    aspects,
    backpropagation,
    maps_of_figure_3,
    smoothing,
    temperature,
    latent_concepts,
    shared,
    pooling,
    four_terms,
)


def main(settings):
    if not 1 <= settings.question <= len(QUESTIONS):
        raise SystemExit(
            f"There are questions 1 to {len(QUESTIONS)}; received {settings.question}. "
            "docs/questions.md lists them."
        )
    answer = QUESTIONS[settings.question - 1]
    say(f"{settings.question}. {answer.__doc__}")
    columns, rows = answer(settings)
    show(columns, rows, least_width=100)


if __name__ == "__main__":
    main(tyro.cli(Settings, description=__doc__))
