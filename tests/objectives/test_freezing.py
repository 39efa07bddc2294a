"""What is frozen stays frozen in a file, a clone and a copy, for every class that holds layers."""

import copy

import keras
import numpy as np
import pytest
from keras import layers

import zoo
from zoo import CompanionHead, DecodingHead, DeeplySupervised, Distiller, MLPConv, knowledge

pytestmark = pytest.mark.eager

IMAGES = np.random.default_rng(0).normal(size=(6, 6, 6, 3)).astype("float32")
LABELS = np.arange(6) % 3


def net(*held):
    return keras.Sequential(
        [
            keras.Input((6, 6, 3)),
            layers.Conv2D(4, 3, padding="same", activation="relu", name="conv"),
            *held,
            layers.Conv2D(3, 3, name="conv2"),
            layers.GlobalAveragePooling2D(name="logits"),
        ]
    )


def functional(*held):
    """A `Sequential` of Keras forgets that it froze."""
    layer_by_layer = net(*held)
    return keras.Model(layer_by_layer.inputs, layer_by_layer.outputs)


def classifying(head):
    return keras.Sequential([keras.Input((6, 6, 3)), layers.Conv2D(4, 3), head])


def supervised():
    return DeeplySupervised(
        functional(MLPConv((4, 4), 3, normalization="batch")),
        {"conv": CompanionHead(3, "conv", kernel_regularizer="l2")},
        decoders={"conv2": DecodingHead(of="conv")},
    )


TEACHER = net()


def distiller(lesson, student=net):
    return Distiller(student=student(), teacher=TEACHER, knowledge=[lesson])


def hint():
    return knowledge.Hint("conv", "conv")


# {class that holds layers: (a model that has one, the frozen part of the model)}
HOLDING = {
    "MLPConv": (lambda: net(MLPConv((4, 4), 3, normalization="batch")), lambda m: m.layers[1]),
    "ImageClassifier": (
        lambda: zoo.nin((6, 6, 3), 3, width=0.03),
        lambda m: m.get_layer("mlpconv1"),
    ),
    "GlobalAveragePoolingHead": (
        lambda: classifying(zoo.GlobalAveragePoolingHead(3)),
        lambda m: m.layers[-1],
    ),
    "CompanionHead": (supervised, lambda m: m.companions["conv"]),
    "DecodingHead": (supervised, lambda m: m.decoders["conv2"]),
    "DeeplySupervised": (supervised, lambda m: m),
    "the trunk": (supervised, lambda m: m.trunk),
    "Distiller": (lambda: distiller(hint(), supervised), lambda m: m),
    "MutualLearning": (lambda: zoo.MutualLearning([functional(), functional()]), lambda m: m),
    "a peer": (
        lambda: zoo.MutualLearning([functional(), functional()]),
        lambda m: m.peers[1].layers[1],
    ),
    "the student": (lambda: distiller(hint(), supervised), lambda m: m.student),
    "Hint": (lambda: distiller(hint()), lambda m: m.knowledge[0]),
    "Flow": (
        lambda: distiller(knowledge.Flow(["conv", "conv2"], ["conv2", "conv"])),
        lambda m: m.knowledge[0],
    ),
    "VariationalInformation": (
        lambda: distiller(knowledge.VariationalInformation("conv", "conv")),
        lambda m: m.knowledge[0],
    ),
    "CorrelationCongruence": (
        lambda: distiller(knowledge.CorrelationCongruence("conv2", "conv2", units=2)),
        lambda m: m.knowledge[0],
    ),
    "ProjectedFeatures": (
        lambda: distiller(knowledge.ProjectedFeatures("conv", "conv")),
        lambda m: m.knowledge[0],
    ),
    "KnowledgeReview": (
        lambda: distiller(knowledge.KnowledgeReview(["conv", "conv2"], ["conv", "conv2"])),
        lambda m: m.knowledge[0],
    ),
}
PLAIN = {
    *("BatchNormalization", "GlobalContrastNormalization", "LocalContrastNormalization"),
    *("ApplicationPreprocessing", "PatchWhitening", "ZCAWhitening", "Dustbin"),
    *("LogitRegression", "MapRegression", "DecoupledSoftTargets", "AttentionTransfer"),
    *("SimilarityPreserving", "RelationalDistance", "RelationalAngle"),
    *("SoftTargets", "RelationalMatching", "MultiLevelLogits", "ProbabilisticTransfer"),
    *("NeuronSelectivityTransfer", "ClassAttentionTransfer", "ScaleDecoupledSoftTargets"),
}


def test_every_class_that_holds_layers_is_here():
    registered = keras.saving.get_custom_objects()
    ours = {
        cls.__name__
        for cls in registered.values()
        if isinstance(cls, type)
        and issubclass(cls, layers.Layer)
        and cls.__module__.startswith("zoo.")
    }
    assert ours == (PLAIN | HOLDING.keys()) - {"the trunk", "the student", "a peer"}


def from_file(model, folder):
    model.save(folder / "model.keras")
    return keras.models.load_model(folder / "model.keras")


def clone(model, folder):
    return keras.models.clone_model(model)


def made_again(model, folder):
    return type(model).from_config(model.get_config())


def trainable(model):
    ids = {id(variable) for variable in model.trainable_variables}
    return [index for index, weight in enumerate(model.weights) if id(weight) in ids]


def train(model):
    if isinstance(model, Distiller):
        model.learn_from(TEACHER)
    model.compile(keras.optimizers.SGD(0.1), zoo.SoftmaxCrossEntropy())
    model.fit(IMAGES, LABELS, verbose=0)


@pytest.mark.parametrize("copied", [from_file, clone, made_again, lambda m, _: copy.deepcopy(m)])
@pytest.mark.parametrize("name", HOLDING)
def test_a_frozen_part_stays_frozen(name, copied, tmp_path):
    make, part = HOLDING[name]
    model = make()
    part(model).trainable = False
    again = copied(model, tmp_path)
    assert not part(again).trainable
    assert not part(again).trainable_variables
    assert trainable(again) == trainable(model)
    before = part(again).get_weights()
    assert before
    train(again)
    for old, new in zip(before, part(again).get_weights(), strict=True):
        np.testing.assert_array_equal(old, new)
    part(again).trainable = True
    assert trainable(again) == trainable(make())


def test_a_layer_that_is_made_frozen_is_frozen_throughout():
    layer = MLPConv((4, 4), 3, normalization="batch", trainable=False)
    layer.build((None, 6, 6, 3))
    assert len(layer.weights) == 2 * 5
    assert not any(variable.trainable for variable in layer.weights)


@pytest.mark.parametrize("normalization", ["batch", layers.BatchNormalization(trainable=False)])
def test_normalizations_that_alone_are_frozen_stay_so(normalization, tmp_path):
    model = net(MLPConv((4, 4), 3, normalization=normalization))
    for layer in model.layers[1].normalizations:
        layer.trainable = False
    for one in (model, from_file(model, tmp_path), keras.models.clone_model(model)):
        mlpconv = one.layers[1]
        assert mlpconv.trainable
        assert [layer.trainable for layer in mlpconv.normalizations] == [False, False]
        assert len(mlpconv.trainable_variables) == 2  # the kernels
        assert trainable(one) == trainable(model)


def test_a_configuration_has_no_new_key_unless_something_is_frozen():
    for make, _ in HOLDING.values():
        model = make()
        if isinstance(model, (DeeplySupervised, Distiller)):
            assert "trainable" not in model.get_config()
            model.trainable = False
            assert model.get_config()["trainable"] is False
