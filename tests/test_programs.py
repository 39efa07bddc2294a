"""An export may calculate, and nothing else: what could do more is refused before it is loaded."""

import os
import shutil
from pathlib import Path

import keras
import numpy as np
import pytest
import tensorflow as tf
from keras import layers
from tensorflow.core.framework import graph_pb2, node_def_pb2
from tensorflow.core.protobuf import saved_model_pb2

import zoo
from zoo import exports, programs
from zoo.exports import ExportError
from zoo.serving import converting, verifying
from zoo.serving.served_model import ServedModel
from zoo.serving.server_runtime import ServerRuntime
from zoo.training import teachers

SHIPPED = sorted(path.parent for path in Path("saved_models").glob("*/*/saved_model.pb"))
FILE = "written-by-the-export"
RAW = tf.raw_ops
# Operations that write or read the file `path`, run Python, or end the process.
ATTACKS = {
    "SaveV2": lambda path: RAW.SaveV2(
        prefix=path, tensor_names=["x"], shape_and_slices=[""], tensors=[tf.constant(1.0)]
    ),
    "DebugIdentityV2": lambda path: RAW.DebugIdentityV2(
        input=tf.constant(1.0), debug_urls=[f"file://{path}"], tensor_debug_mode=8
    ),
    "CreateSummaryFileWriter": lambda path: RAW.CreateSummaryFileWriter(
        writer=RAW.SummaryWriter(), logdir=path, max_queue=1, flush_millis=1, filename_suffix=""
    ),
    "MatchingFiles": lambda path: RAW.MatchingFiles(pattern=f"{path}*"),
    "TextLineDataset": lambda path: RAW.TextLineDataset(
        filenames=[path], compression_type="", buffer_size=0
    ),
    "ImmutableConst": lambda path: RAW.ImmutableConst(
        dtype=tf.float32, shape=[1], memory_region_name=path
    ),
    "PrintV2": lambda path: RAW.PrintV2(input="x", output_stream=f"file://{path}"),
    "WriteFile": lambda path: RAW.WriteFile(filename=path, contents="x"),
    "ReadFile": lambda path: RAW.ReadFile(filename=path),
    "RestoreV2": lambda path: RAW.RestoreV2(
        prefix=path, tensor_names=["x"], shape_and_slices=[""], dtypes=[tf.float32]
    ),
    "EagerPyFunc": lambda path: tf.py_function(os.getcwd, [], []),
    "Abort": lambda path: RAW.Abort(),
}


@pytest.fixture
def version(tmp_path, monkeypatch):
    """A copy of an export that has passed every check."""
    root = Path.cwd()
    monkeypatch.chdir(tmp_path)
    folder = shutil.copytree(root / "saved_models/digits_nin_dsn", tmp_path / "animals")
    return folder / "1"


def change(version, edit):
    """Edit the bytes of a graph, and write fitting checksums."""
    file = version / exports.PROGRAM
    saved = saved_model_pb2.SavedModel.FromString(file.read_bytes())
    edit(saved.meta_graphs[0])
    file.write_bytes(saved.SerializeToString())
    exports.write_checksums(version)


def nodes_of(attack):
    """The nodes of an attack, the last of which does it."""
    with tf.Graph().as_default() as graph:
        attack(str(Path(FILE).absolute()))
    nodes = graph.as_graph_def().node
    for node in nodes:
        node.name = f"attack/{node.name}"
        node.input[:] = [f"attack/{name}" for name in node.input]
    return list(nodes)


def into_body(body, nodes):
    """Add nodes to a function, which names the outputs of nodes otherwise than a graph."""
    for node in nodes:
        added = body.node_def.add()
        added.CopyFrom(node)
        outputs = {"SummaryWriter": "writer"}
        of = {other.name: outputs.get(other.op, "output") for other in nodes}
        added.input[:] = [f"{name}:{of[name]}:0" for name in node.input]
    body.control_ret["attack"] = nodes[-1].name
    body.signature.control_output.append("attack")


def function(graph, part):
    return next(each for each in graph.graph_def.library.function if part in each.signature.name)


def in_the_main_op(graph, nodes):
    graph.graph_def.node.extend(nodes)
    main = next(node for node in graph.graph_def.node if node.name == "NoOp")
    main.input.append(f"^{nodes[-1].name}")


def in_a_signature(graph, nodes):
    graph.graph_def.node.extend(nodes)
    answer = next(iter(graph.signature_def["serving_default"].outputs.values()))
    node = next(n for n in graph.graph_def.node if n.name == answer.name.partition(":")[0])
    node.input.append(f"^{nodes[-1].name}")


def in_a_function(graph, nodes):
    into_body(function(graph, "signature_wrapper_serving_default"), nodes)


def in_a_nested_function(graph, nodes):
    inner = graph.graph_def.library.function.add()
    inner.signature.name = "__inference_harmless"
    into_body(inner, nodes)
    call = node_def_pb2.NodeDef(name="call", op="StatefulPartitionedCall")
    call.attr["f"].func.name = inner.signature.name
    into_body(function(graph, "signature_wrapper_serving_default"), [call])


def in_the_restoring_function(graph, nodes):
    into_body(function(graph, "traced_restore"), nodes)


PLACES = [in_the_main_op, in_a_signature, in_a_function, in_a_nested_function]
PLACES += [in_the_restoring_function]


@pytest.mark.parametrize("operation", ATTACKS)
def test_an_operation_that_does_more_than_calculate_is_refused_wherever_it_is(version, operation):
    good = (version / exports.PROGRAM).read_bytes()
    assert operation not in programs.ALLOWED
    nodes = nodes_of(ATTACKS[operation])
    for place in PLACES:
        (version / exports.PROGRAM).write_bytes(good)
        change(version, lambda graph, place=place: place(graph, nodes))
        with pytest.raises(ExportError, match=f"{operation} in .*Nothing was loaded"):
            programs.checked(version)
    assert not list(Path().glob(f"{FILE}*"))


def test_an_attack_is_real_and_no_door_opens_to_it(version, monkeypatch):
    nodes = nodes_of(ATTACKS["SaveV2"])
    change(version, lambda graph: in_the_main_op(graph, nodes))
    with monkeypatch.context() as patch:
        patch.setattr(programs, "read", programs.parse)  # as if there were no check
        with ServerRuntime(version) as server:
            assert verifying.loads(server).passed
    written = list(Path().glob(f"{FILE}*"))
    assert written, "without the check, to load it writes a file"
    for file in written:
        file.unlink()

    checks = verifying.verify(version.parent)
    assert [check.name for check in checks if not check.passed] == ["graph"]
    monkeypatch.setattr(converting, "check_installed", lambda forms: None)
    doors = [ServedModel, ServerRuntime, lambda folder: converting.convert(folder, "onnx")]
    for door in doors:
        with pytest.raises(ExportError, match="SaveV2 in the graph"):
            door(version)
    (version / exports.MODEL).unlink()
    exports.write_checksums(version)
    with pytest.raises(teachers.TeacherError, match="SaveV2 in the graph"):
        teachers.load(version)
    assert not list(Path().glob(f"{FILE}*"))


def saver(graph):
    return graph.saver_def.save_tensor_name


def the_signature_of_a_saver(graph):
    signature = graph.signature_def["serving_default"]
    signature.inputs["images"].name = graph.saver_def.filename_tensor_name
    signature.outputs["probabilities"].name = saver(graph)


def a_main_op_that_saves(graph):
    graph.collection_def["saved_model_main_op"].node_list.value[:] = [saver(graph).split(":")[0]]


def a_saver_as_an_input(graph):
    in_the_main_op(graph, [node_def_pb2.NodeDef(name=saver(graph).split(":")[0], op="NoOp")])


def a_second_call_of_the_saving_function(graph):
    call = node_def_pb2.NodeDef(name="call", op="StatefulPartitionedCall")
    call.attr["f"].func.name = function(graph, "traced_save").signature.name
    into_body(function(graph, "signature_wrapper_classify"), [call])


def a_saver_that_restores(graph):
    graph.saver_def.restore_op_name = saver(graph).split(":")[0]


def weights_of_another_place(graph):
    node = next(n for n in graph.graph_def.node if n.name == graph.saver_def.restore_op_name)
    node.input[0] = "Const"


def weights_of_a_constant(graph):
    body = function(graph, "traced_restore")
    restore = next(node for node in body.node_def if node.op == "RestoreV2")
    restore.input[0] = "Const:output:0"


def an_object_that_loads_a_file(graph):
    graph.object_graph_def.nodes.add().asset.asset_file_def_index = 0


def an_object_with_code(graph):
    graph.object_graph_def.nodes[0].user_object.identifier = "_tf_keras_layer"


def a_registered_object(graph):
    graph.object_graph_def.nodes[0].registered_name = "Custom.Thing"


def an_attribute_of_a_compiler(graph):
    graph.graph_def.library.function[0].attr["_XlaMustCompile"].b = True


def an_attribute_of_a_node(graph):
    graph.graph_def.node[0].attr["_XlaMustCompile"].b = True


def an_operation_that_is_a_function(graph):
    graph.graph_def.node.add(name="x", op=graph.graph_def.library.function[0].signature.name)


@pytest.mark.parametrize(
    ("edit", "message"),
    [
        (the_signature_of_a_saver, "a use of the saver's"),
        (a_main_op_that_saves, "a use of the saver's"),
        (a_saver_as_an_input, "a use of the saver's"),
        (a_second_call_of_the_saving_function, "SaveV2 in"),
        (a_saver_that_restores, "SaveV2 in|RestoreV2 in"),
        (weights_of_another_place, "RestoreV2 in"),
        (weights_of_a_constant, "RestoreV2 in"),
        (an_object_that_loads_a_file, "of the kind asset"),
        (an_object_with_code, "the object '_tf_keras_layer'"),
        (a_registered_object, "the object 'Custom.Thing'"),
        (an_attribute_of_a_compiler, "_XlaMustCompile in map_while"),
        (an_attribute_of_a_node, "_XlaMustCompile in the graph"),
        (an_operation_that_is_a_function, "map_while.* in the graph"),
        (lambda graph: graph.asset_file_def.add(filename="x"), "the asset 'x'"),
        (lambda graph: graph.collection_def["init"].node_list, "the collection 'init'"),
    ],
)
def test_what_lies_around_the_graph_may_not_run_or_read_either(version, edit, message):
    change(version, edit)
    with pytest.raises(ExportError, match=message) as refused:
        programs.checked(version)
    assert "\n" not in str(refused.value)


def test_there_is_one_graph_and_no_other_file_that_tensorflow_would_load(version):
    (version / "saved_model.cpb").touch()
    exports.write_checksums(version)
    with pytest.raises(ExportError, match=r"the file 'saved_model\.cpb'"):
        programs.checked(version)
    (version / "saved_model.cpb").unlink()
    saved = saved_model_pb2.SavedModel.FromString((version / exports.PROGRAM).read_bytes())
    saved.meta_graphs.add()
    (version / exports.PROGRAM).write_bytes(saved.SerializeToString())
    exports.write_checksums(version)
    with pytest.raises(ExportError, match="is not one graph"):
        programs.checked(version)


@pytest.mark.parametrize("shipped", SHIPPED, ids=lambda path: path.parent.name)
def test_the_shipped_exports_only_calculate(shipped):
    assert programs.checked(shipped) == shipped.resolve()


def test_the_list_has_names_of_tensorflow_once_each():
    assert all(hasattr(tf.raw_ops, name) for name in programs.ALLOWED)
    assert not programs.ALLOWED & (programs.SAVING | programs.RESTORING)


def operations_beyond(model):
    spec = tf.TensorSpec((None, *model.input_shape[1:]), tf.float32)
    traced = tf.function(lambda x: model(x, training=False), input_signature=[spec])
    graph = graph_pb2.GraphDef()
    graph.CopyFrom(traced.get_concrete_function().graph.as_graph_def())
    return programs.odd_parts(graph)


@pytest.mark.parametrize(
    "options",
    [
        {"variant": "modern", "head": "dense", "head_dropout": 0.5},
        {"variant": "mnist", "linear_taps": True},
    ],
    ids=str,
)
def test_the_nets_of_the_zoo_only_calculate(options):
    whitening = zoo.ZCAWhitening()
    whitening.adapt(np.random.default_rng(0).uniform(0, 255, (4, 8, 8, 3)).astype("float32"))
    first = [zoo.GlobalContrastNormalization(), zoo.LocalContrastNormalization(), whitening]
    net = zoo.nin((8, 8, 3), 4, width=0.02, preprocessing=first, **options)
    assert operations_beyond(net) == []


def test_the_layers_of_foreign_nets_only_calculate():
    """As in keras.applications, all of which but ConvNeXt were traced once."""
    images = x = keras.Input((16, 16, 3))
    for layer in (
        layers.Normalization(mean=[1, 2, 3], variance=[1, 1, 1]),
        layers.RandomFlip(),
        layers.ZeroPadding2D(),
        layers.SeparableConv2D(8, 3, activation="relu6"),
        layers.DepthwiseConv2D(3, activation="silu"),
        layers.Conv2DTranspose(8, 3, strides=2, activation="gelu"),
        layers.LayerNormalization(),
        layers.GroupNormalization(4),
        layers.PReLU(),
        layers.UpSampling2D(interpolation="bilinear"),
        layers.Resizing(8, 8),
        layers.AveragePooling2D(2),
        layers.Activation("hard_silu"),
        layers.SpatialDropout2D(0.5),
        layers.Reshape((-1, 8)),
    ):
        x = layer(x)
    x = layers.MultiHeadAttention(2, 4)(x, x)
    x = layers.LSTM(4)(x)
    assert operations_beyond(keras.Model(images, layers.Dense(3)(x))) == []


def test_a_damaged_graph_is_one_line(version):
    (version / exports.PROGRAM).write_bytes(b"\xff" * 100)
    exports.write_checksums(version)
    with pytest.raises(ExportError, match="is not one graph"):
        programs.checked(version)
