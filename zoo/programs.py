"""The graph of an export may calculate, and do nothing else. It is read before it is loaded.

TensorFlow runs whatever a graph says: there are operations that write files, read others, or end
the process. So a graph may have the operations of `ALLOWED` alone. Two functions restore and save
its weights, and have a few operations more; nothing but the loader may call them.
"""

from collections.abc import Iterable, Iterator
from pathlib import Path

from google.protobuf.message import DecodeError
from tensorflow.core.framework import attr_value_pb2, graph_pb2, node_def_pb2
from tensorflow.core.protobuf import meta_graph_pb2, saved_model_pb2

from zoo import exports
from zoo.exports import ExportError

# Each maps tensors to tensors: no files, no randomness, no state. Keras' layers need some of them,
# the decoding of images the others. The last line reads the weights.
_CALCULATIONS = """
Abs Acos Acosh Add AddN AddV2 Asin Asinh Atan Atan2 Atanh Ceil ClipByValue Cos Cosh Cumprod
Cumsum CumulativeLogsumexp Div DivNoNan Erf Erfc Erfinv Exp Expm1 Floor FloorDiv FloorMod Inv
Lgamma Log Log1p Maximum Minimum Mod Mul MulNoNan Neg NextAfter Pow RealDiv Reciprocal Rint
Round Rsqrt Sigmoid Sign Sin Sinh Sqrt Square SquaredDifference Sub Tan Tanh TruncateDiv
TruncateMod Xdivy Xlog1py Xlogy

Elu LeakyRelu LogSoftmax Relu Relu6 Selu Softmax Softplus Softsign

ApproximateEqual BitwiseAnd BitwiseOr BitwiseXor Equal Greater GreaterEqual Invert IsFinite
IsInf IsNan LeftShift Less LessEqual LogicalAnd LogicalNot LogicalOr NotEqual PopulationCount
RightShift Select SelectV2 Where

All Any ArgMax ArgMin Bincount Bucketize DenseBincount EuclideanNorm InTopKV2 L2Loss LowerBound
Max Mean Min Prod SegmentMax SegmentMean SegmentMin SegmentSum Sum TopKV2 Unique UniqueV2
UniqueWithCountsV2 UnsortedSegmentMax UnsortedSegmentMin UnsortedSegmentProd UnsortedSegmentSum
UpperBound

BatchMatMulV2 BatchMatMulV3 Cholesky Cross Einsum MatMul MatrixBandPart MatrixDeterminant
MatrixDiagPartV3 MatrixDiagV3 MatrixInverse MatrixSetDiagV3 MatrixSolve MatrixTriangularSolve
Qr SelfAdjointEigV2 Svd

AvgPool AvgPool3D BatchToSpaceND BiasAdd Conv Conv2D Conv2DBackpropInput Conv3D
Conv3DBackpropInputV2 CropAndResize DepthToSpace DepthwiseConv2dNative Dilation2D
ExtractImagePatches FusedBatchNormV3 LRN MaxPool MaxPool3D MaxPoolV2 SpaceToBatchND SpaceToDepth

AdjustContrastv2 AdjustHue AdjustSaturation HSVToRGB ImageProjectiveTransformV3 RGBToHSV
ResizeArea ResizeBicubic ResizeBilinear ResizeNearestNeighbor ScaleAndTranslate

Bitcast BroadcastArgs BroadcastTo Cast Concat ConcatOffset ConcatV2 Const DynamicPartition
DynamicStitch EnsureShape ExpandDims Fill Gather GatherNd GatherV2 Identity IdentityN
InvertPermutation LinSpace ListDiff MirrorPad OneHot OnesLike Pack Pad PadV2
ParallelDynamicStitch Placeholder PreventGradient Range Rank Reshape Reverse ReverseSequence
ReverseV2 Roll ScatterNd Shape ShapeN Size Slice Snapshot Split SplitV Squeeze StopGradient
StridedSlice TensorScatterAdd TensorScatterMax TensorScatterMin TensorScatterSub
TensorScatterUpdate TensorStridedSliceUpdate Tile Transpose Unpack UnravelIndex ZerosLike

Complex ComplexAbs Conj FFT FFT2D IFFT IFFT2D IRFFT IRFFT2D Imag RFFT RFFT2D Real

FakeQuantWithMinMaxVars FakeQuantWithMinMaxVarsPerChannel QuantizeAndDequantizeV3
QuantizeAndDequantizeV4

AsString DecodeAndCropJpeg DecodeCompressed DecodeJpeg DecodePaddedRaw DecodePng DecodeRaw
ExtractJpegShape ParseExampleV2 ReduceJoin RegexFullMatch RegexReplace StaticRegexFullMatch
StaticRegexReplace StringJoin StringLength StringLower StringSplitV2 StringStrip StringToNumber
StringUpper Substr

EmptyTensorList TensorListConcatV2 TensorListElementShape TensorListFromTensor TensorListGather
TensorListGetItem TensorListLength TensorListPopBack TensorListPushBack TensorListReserve
TensorListResize TensorListScatterIntoExistingList TensorListScatterV2 TensorListSetItem
TensorListSplit TensorListStack

Assert Case CheckNumerics CheckNumericsV2 If NoOp PartitionedCall StatefulPartitionedCall
StatelessCase StatelessIf StatelessWhile While

DisableCopyOnRead ReadVariableOp VarHandleOp
"""
ALLOWED = frozenset(_CALCULATIONS.split())
RESTORING = frozenset({"RestoreV2", "AssignVariableOp"})
SAVING = frozenset({"SaveV2", "ShardedFilename", "MergeV2Checkpoints"})
# Attributes that describe. Others choose a compiler or another kernel.
_OF_NODES = {"_class", "_collective_manager_ids", "_gradient_op_type", "_input_shapes"}
_OF_NODES |= {"_has_manual_control_dependencies", "_lower_using_switch_merge", "_output_shapes"}
_OF_NODES |= {"_num_original_outputs", "_read_only_resource_inputs", "_stateful_parallelism"}
_OF_NODES |= {"_user_specified_name"}
_OF_FUNCTIONS = {"_construction_context", "_input_shapes", "_noinline", "_output_shapes"}
# TensorFlow would load other names in place of saved_model.pb, such as saved_model.cpb.
_PARTS = {"saved_model.pb", "fingerprint.pb", "variables", "assets", "assets.extra", "SHA256SUMS"}
_OBJECTS = {"user_object", "function", "bare_concrete_function", "variable", "constant"}
_OBJECTS |= {"captured_tensor"}
_IDENTIFIERS = {"_generic_user_object", "signature_map", "trackable_list_wrapper"}
_IDENTIFIERS |= {"trackable_dict_wrapper", "trackable_tuple_wrapper"}


def checked(directory: Path | str) -> Path:
    """Return the version to load, after checks of all its files and of its graph.

    Arguments:
        directory: a version, or the folder of the versions, whose newest is taken.

    Raises:
        FileNotFoundError: if there is no export.
        ExportError: if a file was changed, removed or added, or if the graph does more than
            calculate.
    """
    version = exports.find_version(directory)
    exports.verify_checksums(version)
    read(version)
    return version


def read(version: Path) -> meta_graph_pb2.MetaGraphDef:
    """Return the graph of a version, as `parse`, if it does nothing but calculate.

    Raises:
        ExportError: for a file that is no such SavedModel, or a graph that does more.
    """
    graph = parse(version)
    odd = [f"the file {path.name!r}" for path in version.iterdir() if path.name not in _PARTS]
    odd += [*odd_parts(graph.graph_def, _of_the_saver(graph)), *_odd_surroundings(graph)]
    if odd:
        more = f", and {len(odd) - 5} more" if len(odd) > 5 else ""
        raise ExportError(
            f"{version} has more than calculations that a server can run: {', '.join(odd[:5])}"
            f"{more}. Nothing was loaded. If the model is yours, leave out the layer that makes "
            "them; if it is not, do not trust it."
        )
    return graph


def parse(version: Path) -> meta_graph_pb2.MetaGraphDef:
    """Return the one graph of a SavedModel, with the tag `serve`, as its proto.

    Raises:
        ExportError: for a file that is no such SavedModel.
    """
    file = version / exports.PROGRAM
    exports.refuse_odd(file)
    try:
        saved = saved_model_pb2.SavedModel.FromString(file.read_bytes())
        (graph,) = saved.meta_graphs
    except (ValueError, DecodeError) as error:
        raise ExportError(f"{file} is not one graph: {error}") from error
    if list(graph.meta_info_def.tags) != ["serve"]:
        raise ExportError(f"The graph has the tags {list(graph.meta_info_def.tags)}, not serve.")
    return graph


def odd_parts(
    graph: graph_pb2.GraphDef, additional: dict[str, frozenset[str]] | None = None
) -> list[str]:
    """Return what a graph and its functions have beyond `ALLOWED`, in words; [] is good.

    Arguments:
        graph: a graph with its library of functions.
        additional: {function: operations that it may have besides}.
    """
    additional = additional or {}
    odd: dict[str, None] = {}  # each once, in order
    for place, nodes in _bodies(graph):
        allowed = ALLOWED | additional.get(place, frozenset())
        for node in nodes:
            if node.op not in allowed:
                odd[f"{node.op} in {place}"] = None
            unknown = (key for key in node.attr if key[0] == "_" and key not in _OF_NODES)
            odd.update(dict.fromkeys(f"{key} in {place}" for key in unknown))
    for function in graph.library.function:
        unknown = (key for key in function.attr if key not in _OF_FUNCTIONS)
        odd.update(dict.fromkeys(f"{key} in {function.signature.name}" for key in unknown))
    return list(odd)


def _bodies(graph: graph_pb2.GraphDef) -> Iterator[tuple[str, Iterable[node_def_pb2.NodeDef]]]:
    yield "the graph", graph.node
    for function in graph.library.function:
        yield function.signature.name, function.node_def


def _saver_nodes(graph):
    """Return {name: operations} of the nodes that save and restore."""
    saver = graph.saver_def
    names = {saver.save_tensor_name: SAVING, saver.restore_op_name: RESTORING}
    return {_node(name): operations for name, operations in names.items() if name}


def _of_the_saver(graph):
    """Return {function: operations} of the functions that only the saver's nodes call."""
    nodes = {node.name: node for node in graph.graph_def.node}
    bodies = {body.signature.name: body for body in graph.graph_def.library.function}
    called = [
        function
        for _, body in _bodies(graph.graph_def)
        for node in body
        for function in _functions_of(node.attr.values())
    ]
    called += graph.object_graph_def.concrete_functions
    file = nodes.get(_node(graph.saver_def.filename_tensor_name), node_def_pb2.NodeDef())
    additional = {}
    for name, operations in _saver_nodes(graph).items():
        node = nodes.get(name, node_def_pb2.NodeDef())
        for function in _functions_of(node.attr.values()):
            body = bodies.get(function)
            if body and called.count(function) == 1 and _takes_the_file(node, body, file):
                additional[function] = operations
    return additional


def _takes_the_file(node, body, file):
    """Return whether a function restores from the file that the loader names, and no other."""
    argument = [argument.name for argument in body.signature.input_arg][:1]
    restored = [inner.input[:1] for inner in body.node_def if inner.op == "RestoreV2"]
    is_named = file.op == "Placeholder" and node.input[:1] == [file.name]
    return is_named and all(name == argument for name in restored)


def _functions_of(attributes: Iterable[attr_value_pb2.AttrValue]) -> Iterator[str]:
    """Yield the names of the functions in attributes, and in the attributes of these."""
    for attribute in attributes:
        for function in [*attribute.list.func, *([attribute.func] if attribute.func.name else [])]:
            yield function.name
            yield from _functions_of(function.attr.values())


def _odd_surroundings(graph):
    """Return what lies around the graph and could run or be read, in words."""
    tensors = [
        tensor
        for signature in graph.signature_def.values()
        for tensor in [*signature.inputs.values(), *signature.outputs.values()]
    ]
    named = [tensor.name for tensor in tensors]
    named += [name for node in graph.graph_def.node for name in node.input]
    for collection in graph.collection_def.values():
        named += collection.node_list.value
    saver = _saver_nodes(graph).keys() & {_node(name) for name in named}
    odd = [f"a use of the saver's {name}" for name in sorted(saver)]
    odd += [f"the asset {asset.filename!r}" for asset in graph.asset_file_def]
    keys = graph.collection_def.keys() - {"saved_model_main_op"}
    odd += [f"the collection {key!r}" for key in sorted(keys)]
    odd += ["a tensor without a name" for tensor in tensors if not tensor.name]
    for saved in graph.object_graph_def.nodes:
        kind = saved.WhichOneof("kind")
        identifier = saved.user_object.identifier or "_generic_user_object"
        if kind not in _OBJECTS or identifier not in _IDENTIFIERS or saved.registered_name:
            odd.append(f"the object {saved.registered_name or identifier!r} of the kind {kind}")
        odd += ["an object that restores itself"] * bool(saved.saveable_objects)
    return odd


def _node(tensor: str) -> str:
    """Return the node of a tensor: "^a" and "a:0" are of "a"."""
    return tensor.removeprefix("^").partition(":")[0]
