"""Each line of docs/guides/methods.md is built as it stands there, and takes a step."""

import pathlib
import re

import keras
import numpy as np
import pytest
from keras import layers

import zoo
from zoo import knowledge

pytestmark = pytest.mark.eager

PAGE = pathlib.Path(__file__).parents[2] / "docs" / "guides" / "methods.md"
# tests/objectives/test_mutual.py has the rest.
TEXT = PAGE.read_text(encoding="utf-8").split("## Nets that teach themselves")[0]
ROWS = [
    [cell.strip() for cell in line.strip("|").split("|")]
    for line in TEXT.splitlines()
    if line.startswith("| ") and not line.startswith("| method")
]
LINES = re.findall(r"\| `((?:soft|label)_weight=[^`]*)` \|", TEXT)
# The names that the page explains, and the names of knowledge.
NAMES = {"map": "mlpconv2", "features": "mlpconv2", "maps": ["mlpconv1", "mlpconv2"]}
NAMES |= {"class_maps": "class_maps"}
NAMES |= {name: getattr(knowledge, name) for name in knowledge.__all__}

FLAGS = "kd hint attention similarity correlation vid crd kdsvd fsp rkd pkt abound factor nst"
TYPES = "KD AT OFD RKD FITNET KDSVD CRD NST PKT SP VID REVIEWKD DKD DOT"
CLASSES = "KDLoss FSPLoss ATLoss PKTLoss FTLoss AltActTransferLoss RKDLoss VIDLoss CCKDLoss "
CLASSES += "SPKDLoss CRDLoss AuxSSKDLoss SSKDLoss PADL2Loss HierarchicalContextLoss "
CLASSES += "RegularizationLoss KTALoss AffinityLoss ChSimLoss DISTLoss SRDLoss LogitStdKDLoss "
CLASSES += "DISTPlusLoss SKDInstanceLoss SKDDirectionLoss"


def test_every_method_of_the_three_libraries_has_a_row():
    compared = [row for row in ROWS if len(row) == 6]
    for column, names in enumerate((FLAGS, TYPES, CLASSES), 1):
        found = [name for row in compared for name in re.findall(r"`(\w+)`", row[column])]
        assert sorted(found) == sorted(names.split())


def test_every_row_has_a_line_or_says_not_here():
    ours = [row[-2] for row in ROWS]
    assert len(LINES) + ours.count("not here") == len(ours)
    used = set(re.findall(r"[A-Z]\w+(?=\()", " ".join(LINES)))
    assert used == set(knowledge.__all__) - {"Knowledge"}


@pytest.fixture(scope="module")
def nets():
    def net():
        inputs = keras.Input((6, 6, 1))
        x = layers.Conv2D(2, 3, activation="relu", name="mlpconv1")(inputs)
        x = layers.Conv2D(2, 2, activation="relu", name="mlpconv2")(x)
        x = layers.Conv2D(3, 1, name="class_maps")(x)
        return keras.Model(inputs, layers.GlobalAveragePooling2D(name="logits")(x))

    keras.utils.set_random_seed(0)
    return net(), net()


def arguments_of(line):
    return eval(f"dict({line})", dict(NAMES))


@pytest.mark.parametrize("line", LINES)
def test_a_line_of_the_table_is_built(line, nets):
    student, teacher = nets
    zoo.Distiller(student=student, teacher=teacher, **arguments_of(line))


def test_the_knowledge_of_all_lines_learns(nets):
    student, teacher = nets
    lessons = [each for line in LINES for each in arguments_of(line).get("knowledge", ())]
    distiller = zoo.Distiller(student=student, teacher=teacher, knowledge=lessons)
    distiller.compile("sgd", zoo.SoftmaxCrossEntropy())
    images = np.random.default_rng(0).normal(size=(4, 6, 6, 1)).astype("float32")
    logs = distiller.train_on_batch(images, np.array([0, 1, 2, 1]), return_dict=True)
    assert len(logs) == 3 + len(lessons)  # and the loss, and those of labels and soft targets
    for name, value in logs.items():
        assert 0 < abs(value) < np.inf, name
