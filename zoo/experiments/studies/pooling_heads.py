"""Global average pooling against fully connected heads (NIN, Table 5)

In section 4.6, the paper on Network in Network replaces global average pooling by a fully connected
layer on the class maps, with and without dropout before it. On its net, pooling does better. On a
conventional net it is the other way round: dropout before the fully connected layer does better
than pooling.

Here the data are Fashion-MNIST instead of CIFAR-10, so that the study of translations can move the
images over a black background. The nets have a quarter of the paper's width, and dropout of 0.2
instead of 0.5 between the layers. They train on 10,000 images for 400 steps. The learning rate is
0.02 for all, because the NIN with a fully connected layer diverged at 0.05. The paper's CNN has
three convolutions and a locally connected layer. Ours is the NIN without its 1 x 1 convolutions,
except for the one to the class maps.

This does not test the paper's table. 400 steps at a low rate train none of these nets to the end.
The paper's central claim is that mlpconv layers are better than plain convolutions. Here the plain
CNN has the lower mean error with every head, by less than the seeds differ. No study here tests the
central claim: these two nets have different numbers of weights and operations.
"""

from zoo.experiments.studies import drawing, spread
from zoo.tables import Table

SEEDS = 3
COMMON = {
    "data": "fashion_mnist",
    "examples": 10_000,
    "epochs": 2,
    "steps_per_epoch": 200,
    "batch_size": 64,
    "learning_rate": 0.02,
    "dropout": 0.2,
}
NETS = {"NIN": "nin", "CNN": "cnn"}
HEADS = {
    "pooling": {"head": "pool"},
    "fully connected": {"head": "dense"},
    "fully connected, dropout": {"head": "dense", "head_dropout": 0.5},
}
RUNS = {
    f"{net}, {head}": {**COMMON, "net": kind, **fields}
    for net, kind in NETS.items()
    for head, fields in HEADS.items()
}
PAPER = dict(zip(RUNS, (10.41, 11.59, 10.88, 16.46, 17.56, 15.99), strict=True))  # test error, %


def show(finished):
    """Draw and tabulate the test error of each head, ours and the paper's."""
    figure, (ours, paper) = drawing.panels("Heads of a NIN and a CNN", 2, height=3.0, sharey=True)
    rows = []
    for label in RUNS:
        errors = drawing.final_errors(finished[label])
        net, _, head = label.partition(", ")
        index = [*HEADS].index(head)
        place = 4 * [*NETS].index(net) + index
        look = {"fmt": "osD"[index], "color": drawing.COLOURS[index], "markersize": 6}
        mean = errors.mean()
        bar = [[mean - errors.min()], [errors.max() - mean]]
        ours.errorbar(mean, place, xerr=bar, capsize=4, label=head, **look)
        paper.errorbar(PAPER[label], place, **look)
        rows.append((net, head, spread(errors), f"{PAPER[label]:.2f}"))
    ours.set_yticks([1, 5], NETS)
    ours.invert_yaxis()
    for axes, title in ((ours, "Fashion-MNIST, here"), (paper, "CIFAR-10, the paper")):
        axes.set_title(title, fontsize=drawing.TEXT, color=drawing.INK)
        drawing.label(axes, "Test error (% of images)", "")
    drawing.legend(figure, finished)
    columns = ("Net", "Head", "Test error, Fashion-MNIST (%)", "Paper, CIFAR-10 (%)")
    return figure, Table(columns, tuple(rows))
