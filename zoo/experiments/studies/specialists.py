"""Specialists for confusable classes, and one net again (Hinton et al., section 5)

In the paper, 61 specialists for a data set of 15,000 classes raise its test accuracy from 25.0 to
26.1 %. The gain is larger for a class that more specialists cover (their Table 4). Each specialist
starts from the generalist. It knows 300 classes that are often predicted together, and has a
dustbin for all others. Half of its training examples are of its own classes. The specialists were
not distilled into one net.

Here the data are Fashion-MNIST, with 10 classes. The generalists are nets of the study `ensemble`.
K-means on the covariance of a generalist's predictions makes 4 clusters of classes. A cluster of
one class gets no specialist. A specialist keeps the generalist's whole softmax, and its dustbin is
the sum of the other classes' probabilities. It learns for 3 epochs (Adam, 3e-4 falling to zero).
Then come the paper's correction of the dustbin, and equation 5 for each image. Last, a new net of
the generalist's size learns the results of equation 5 for the training images, at temperature 4.
Another one learns from the generalist alone. Nothing was tuned.
"""

import keras
import numpy as np

from zoo.experiments.studies import drawing, ensemble, smoothing, spread
from zoo.measures import softmax
from zoo.objectives import specialists
from zoo.saving import load_model
from zoo.tables import Table

SEEDS = 3
CLUSTERS = 4
EPOCHS = 3
RUNS = {
    "labels": ensemble.MEMBER,
    "taught by labels' net": smoothing.RUNS["taught by labels' net"],
}


def show(finished):
    """Draw and tabulate the test accuracy before and after, and by the covering specialists."""
    seeds = [_one_seed(run) for run in finished["labels"]]
    alone = [100 * run.results["accuracy"] for run in finished["taught by labels' net"]]
    steps = {
        "generalist": [seed["before"] for seed in seeds],
        "with specialists": [seed["after"] for seed in seeds],
        "taught by the generalist": alone,
        "taught by all of them": [seed["distilled"] for seed in seeds],
    }
    figure, (axes,) = drawing.panels(
        "Fashion-MNIST: a generalist, its specialists, and one net again"
    )
    for index, values in enumerate(steps.values()):
        axes.plot([index] * len(values), values, "o", color=drawing.COLOURS[index], alpha=0.6)
        axes.plot(index, np.mean(values), "_", color=drawing.INK, markersize=24)
    axes.set_xticks(range(len(steps)), [label.replace(" ", "\n", 1) for label in steps])
    drawing.label(axes, "", "Test accuracy (%), each seed and the mean")
    rows = [(label, spread(values)) for label, values in steps.items()]
    for place, net in enumerate(("generalist", "specialists")):
        given_cluster = spread([seed["conditional"][place] for seed in seeds])
        rows.append((f"given the cluster: {net}", given_cluster))
    for covering in sorted({row.covering for seed in seeds for row in seed["table"]}):
        covered = [row for seed in seeds for row in seed["table"] if row.covering == covering]
        change = spread([row.change for row in covered], 1)
        examples = spread([row.examples for row in covered], 0)
        rows.append((f"{covering} covering: images; change in right ones", f"{examples}; {change}"))
    clusters = "; ".join(
        ", ".join(finished["labels"][0].results["label_names"][label] for label in cluster)
        for cluster in seeds[0]["clusters"]
    )
    rows.append(("specialists of seed 0", clusters))
    return figure, Table(("", "Test accuracy (%)"), tuple(rows))


def _one_seed(run):
    """Return the accuracies (%) of one seed's generalist, its specialists, and the distilled net.

    "conditional" are the accuracies of both on the clusters, when the image's cluster is known.
    """
    training, test = run.recipe().datasets()
    generalist, seed = load_model(run.folder), run.fields["seed"]
    images = {"training": _pixels(training), "test": _pixels(test)}
    own = {split: _probabilities(generalist, pixels) for split, pixels in images.items()}
    clusters = specialists.confusable_classes(own["training"], CLUSTERS, seed=seed)
    experts = {split: [] for split in images}  # (classes, probabilities) of each specialist
    conditional = np.zeros((2, test.examples), bool)
    for classes in clusters:
        expert = _specialist(generalist, classes, images["training"], training.labels, seed)
        for split, pixels in images.items():
            experts[split].append((classes, _probabilities(expert, pixels)))
        among = np.isin(test.labels, classes)
        without_dustbin = experts["test"][-1][1][:, :-1]
        for row, shares in enumerate((own["test"][:, classes], without_dustbin)):
            conditional[row, among] = classes[shares[among].argmax(1)] == test.labels[among]
    combined = {split: specialists.combine(own[split], experts[split]) for split in images}
    before = own["test"].argmax(1) == test.labels
    after = combined["test"].argmax(1) == test.labels
    covering = sum(np.isin(test.labels, classes).astype(int) for classes in clusters)
    student = _distilled(run, images["training"], training.labels, combined["training"])
    distilled = _probabilities(student, images["test"]).argmax(1) == test.labels
    return {
        "clusters": clusters,
        "before": 100 * before.mean(),
        "after": 100 * after.mean(),
        "conditional": 100 * conditional[:, covering > 0].mean(axis=1),
        "table": specialists.table(before, after, covering),
        "distilled": 100 * distilled.mean(),
    }


def _specialist(generalist, classes, images, labels, seed):
    keras.utils.set_random_seed(seed)
    net = specialists.specialist(generalist, classes)
    chosen, targets, oversampling = specialists.specialist_examples(labels, classes, seed=seed)
    steps = EPOCHS * -(-len(chosen) // 256)
    rate = keras.optimizers.schedules.CosineDecay(3e-4, steps)
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    net.compile(keras.optimizers.Adam(rate), loss)
    net.fit(images[chosen], targets, batch_size=256, epochs=EPOCHS, verbose=0)
    return specialists.correct_dustbin(net, oversampling)


def _distilled(run, images, labels, probabilities):
    import zoo

    keras.utils.set_random_seed(run.fields["seed"])
    units, epochs = run.fields["units"], run.fields["epochs"]
    student = zoo.mlp(images.shape[1:], probabilities.shape[1], hidden=(units, units))
    distiller = zoo.Distiller(student=student, temperature=4.0, soft_weight=0.9)
    steps = epochs * -(-len(images) // run.fields["batch_size"])
    rate = keras.optimizers.schedules.CosineDecay(run.fields["learning_rate"], steps)
    distiller.compile(keras.optimizers.Adam(rate), zoo.SoftmaxCrossEntropy())
    logits = np.log(np.maximum(probabilities, 1e-30)).astype("float32")
    targets = {"labels": labels, "teacher_logits": logits}
    distiller.fit(images, targets, batch_size=run.fields["batch_size"], epochs=epochs, verbose=0)
    return student


def _pixels(data):
    return data.images.astype("float32")


def _probabilities(model, images):
    logits = model.predict(images, batch_size=1024, verbose=0).astype("float64")
    return softmax(logits)
