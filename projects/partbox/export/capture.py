"""From a model to an ONNX graph, or to the sentence that says which operation has no place in one, and why."""

from __future__ import annotations

import io
import logging
import re
import sys
import sysconfig
import traceback
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager, redirect_stderr
from pathlib import Path
from types import FrameType, MappingProxyType
from typing import Any
from unittest.mock import patch

import onnx
import torch
from onnxscript import opset18 as op
from torch._ops import OpOverload
from torch.export import Dim, ExportedProgram
from torch.fx.experimental.sym_node import SymNode
from torch.fx.experimental.symbolic_shapes import ShapeEnv

from maskdino_ext.ms_deform_attn import MSDeformAttn

from .errors import ExportError
from .graphs import Graph, OneByOneGraph

OPSETS = range(18, 24)
"""Versions of ONNX's operations that torch's exporter writes; a test makes a file of each."""
DEFAULT_OPSET = 20

ATTENTION = "grid_sample"  # an operation of ONNX; the other forms are some 50 operations a level
INPUT = "images"
BATCH = "batch"
LARGEST_BYTES = 2**31 - 1  # of a protobuf message, which an ONNX file without a second file is
NOISY = ("torch.onnx", "onnxscript", "onnx_ir", "torch.export", "torch.fx")
NOTHING: Mapping[str, str] = MappingProxyType({})


def to_onnx(graph: Graph, opset: int = DEFAULT_OPSET) -> onnx.ModelProto:
    """The graph as an ONNX model whose batch has any size.

    Args:
        graph: in evaluation mode.
        opset: of ``OPSETS``.

    Raises:
        ExportError: naming the operation and why.
    """
    if opset not in OPSETS:
        raise ExportError(f"--opset {opset}: torch's exporter writes {OPSETS.start} to {OPSETS.stop - 1}")
    training = [name or "the model" for name, module in graph.named_modules() if module.training]
    if training:
        raise ValueError(f"{training[0]} is in training mode")
    _check_bytes(sum(tensor.nbytes for tensor in graph.state_dict().values()))
    name = type(graph.model).__name__
    with quiet():
        program = _captured(graph, name)
        model = _translated(program, graph, name, opset)
    _check(model, graph, opset)
    return model


@contextmanager
def quiet() -> Iterator[None]:
    """Without the exporters' remarks, which are about themselves."""
    loggers = [logging.getLogger(name) for name in NOISY]
    levels = [logger.level for logger in loggers]
    try:
        for logger in loggers:
            logger.setLevel(logging.ERROR)
        with warnings.catch_warnings(), redirect_stderr(io.StringIO()):  # a failed capture prints all of its graph
            warnings.simplefilter("ignore")
            yield
    finally:
        for logger, level in zip(loggers, levels, strict=True):
            logger.setLevel(level)


@contextmanager
def attention_form(graph: Graph, form: str) -> Iterator[None]:
    """Deformable attention in one of its forms, which all compute the same sum."""
    layers = [module for module in graph.modules() if isinstance(module, MSDeformAttn)]
    before = [layer.form for layer in layers]
    try:
        for layer in layers:
            layer.form = form
        yield
    finally:
        for layer, own in zip(layers, before, strict=True):
            layer.form = own


@contextmanager
def noted_numbers(places: list[str]) -> Iterator[None]:
    """Note where a model's code makes a fixed number of the size of the batch, such as by ``len`` or a loop."""
    original = SymNode.guard_int

    def noted(node: SymNode, *where: Any) -> int:
        if node.maybe_as_int() is None:
            places.append(_place_of(traceback.extract_stack()))
        number: int = original(node, *where)
        return number

    with patch.object(SymNode, "guard_int", noted):
        yield


@contextmanager
def noted_origins(origins: dict[str, str]) -> Iterator[None]:
    """Note which operation makes each number that nobody knows before the image is there, by torch's name for it."""

    def noting(original: Callable[..., Any]) -> Callable[..., Any]:
        def noted(*given: Any, **named: Any) -> Any:
            made = original(*given, **named)
            operation = _operation_of(sys._getframe(1))
            for symbol in made.node.expr.free_symbols:
                origins[str(symbol)] = f"{operation}{_place_of(traceback.extract_stack())}"
            return made

        return noted

    with ExitStack() as patches:
        for name in ("create_unbacked_symint", "create_unbacked_symfloat", "create_unbacked_symbool"):
            patches.enter_context(patch.object(ShapeEnv, name, noting(getattr(ShapeEnv, name))))
        yield


def _operation_of(frame: FrameType | None) -> str:
    """The operation that torch is looking at."""
    while frame is not None:
        if isinstance(frame.f_locals.get("func"), OpOverload):
            return str(frame.f_locals["func"])
        frame = frame.f_back
    return "an operation"


def _captured(graph: Graph, name: str) -> ExportedProgram:
    """The graph's operations, for a batch of any size.

    torch.onnx would try again with a fixed batch where a dynamic one fails, and say nothing; torch.export does not.
    """
    images = torch.rand(2, 3, *graph.size)  # their values decide nothing
    one_by_one = isinstance(graph, OneByOneGraph)
    fixed: list[str] = []
    origins: dict[str, str] = {}
    try:
        with torch.no_grad(), attention_form(graph, ATTENTION), noted_numbers(fixed), noted_origins(origins):
            program = torch.export.export(
                graph,
                (images[:1] if one_by_one else images,),
                dynamic_shapes=None if one_by_one else ({0: Dim(BATCH)},),
                strict=False,
            )
    except ExportError:
        raise
    except Exception as error:
        raise ExportError(f"{name} cannot be exported: {reason(error, fixed, origins)}") from error
    if one_by_one:
        raise ExportError(
            f"{name} cannot be exported: it takes a list of images (batched_inputs) and answers for each by itself, so "
            "a file of it would have a fixed batch of 1"
        )
    return program


def expm1(x: Any) -> Any:
    """The exponential minus 1, of which ONNX has no operation, exact near 0, too.

    torch's exporter writes exp(x) - 1, which is off by 6e-8 there; Mask DINO's soft masks take a logarithm of it.
    """
    return op.Mul(op.Tanh(op.Mul(x, 0.5)), op.Add(op.Exp(x), 1.0))


def sigmoid(x: Any) -> Any:
    """1 / (1 + exp(-x)), exact in every digit of small values, too.

    onnxruntime's own Sigmoid is off by up to 1.4e-7 however small the value is; part scores divide by sums of such.
    """
    return op.Reciprocal(op.Add(op.Exp(op.Neg(x)), 1.0))


TRANSLATIONS: dict[Callable[..., Any], Callable[..., Any]] = {
    torch.ops.aten.expm1.default: expm1,
    torch.ops.aten.sigmoid.default: sigmoid,
}
"""What is not left to torch's exporter."""


def _translated(program: ExportedProgram, graph: Graph, name: str, opset: int) -> onnx.ModelProto:
    try:
        found = torch.onnx.export(
            program,
            dynamo=True,
            opset_version=opset,
            input_names=[INPUT],
            output_names=[output.name for output in graph.outputs],
            dynamic_shapes=({0: BATCH},),
            custom_translation_table=TRANSLATIONS,
            verbose=False,
        )
        assert found is not None  # only the old exporter gives nothing
        model: onnx.ModelProto = without_traces(found.model_proto)
    except Exception as error:
        raise ExportError(f"{name} cannot be exported: {reason(error)}") from error
    return model


def without_traces(model: onnx.ModelProto) -> onnx.ModelProto:
    """The model without what the exporter notes of each operation: its place in files of this machine, among others."""
    graph = model.graph
    noted: list[Any] = [*graph.node, *graph.initializer, *graph.input, *graph.output, *graph.value_info, graph]
    for one in noted:
        one.ClearField("metadata_props")
        one.ClearField("doc_string")
    return model


def _check(model: onnx.ModelProto, graph: Graph, opset: int) -> None:
    """Raises ExportError for a model that is not what was asked for."""
    _check_bytes(model.ByteSize())
    written = {one.domain: one.version for one in model.opset_import}
    if written.get("") != opset:
        raise ExportError(
            f"--opset {opset}: an operation of this model has no form in it, torch's exporter wrote {written.get('')}"
        )
    foreign = sorted({node.domain for node in model.graph.node} - {"", "ai.onnx"})
    if foreign:
        raise ExportError(f"the file would need operations beyond ONNX's own, of {', '.join(foreign)}")
    height, width = graph.size
    expected = [(INPUT, (BATCH, 3, height, width)), *[(output.name, None) for output in graph.outputs]]
    for value, (wanted, shape) in zip([*model.graph.input, *model.graph.output], expected, strict=True):
        found = shape_of(value)
        if value.name != wanted or (shape is not None and found != shape):
            raise ExportError(f"the file's {value.name} is {found}, not {wanted} {shape}")
        if found[0] != BATCH or not all(isinstance(side, int) for side in found[1:]):
            raise ExportError(f"{wanted} would have the shape {found}: its batch is fixed, or another side is not")
    onnx.checker.check_model(model)


def shape_of(value: onnx.ValueInfoProto) -> tuple[int | str, ...]:
    """Sides of an input or output: a number, or a name where any is allowed."""
    return tuple(dim.dim_param or dim.dim_value for dim in value.type.tensor_type.shape.dim)


def _check_bytes(count: int) -> None:
    if count > LARGEST_BYTES:
        raise ExportError(
            f"the model has {count / 2**30:.2f} GiB of weights, and one ONNX file holds at most 2: export a smaller "
            "one (weights in a second file, ONNX's external data, are not written)"
        )


# --- why ------------------------------------------------------------------------------------------------------------


def reason(error: BaseException, fixed: Sequence[str] = (), origins: Mapping[str, str] = NOTHING) -> str:
    """The operation at which an exporter stopped, where it stands in the model's code, and why it has no place.

    Args:
        error: of torch.export or torch.onnx.
        fixed: places that made a fixed number of the size of the batch.
        origins: operations that made a number of the image, by torch's name for it.
    """
    chain = _chain(error)
    for one in chain:
        kind = type(one).__name__
        if kind == "DataDependentOutputException":
            operation = getattr(one, "func", "an operation")
            return f"{operation}{_place(chain)} makes a Python number of a value that depends on the image"
        if kind == "GuardOnDataDependentSymNode":
            symbols = getattr(getattr(one, "cond", None), "free_symbols", ())
            made = next((origins[str(symbol)] for symbol in symbols if str(symbol) in origins), "an operation")
            return _decision(made, _place(chain))
    text = "\n".join(str(one) for one in chain)
    missing = re.findall(r"No (?:ONNX function|decompositions registered|ONNX implementation)[^\n]*?op='([^']+)'", text)
    if missing:
        return f"{missing[0]} has no translation into ONNX in torch's exporter"
    if "specialized it to be a constant" in text:
        return f"the code{next(iter(fixed), '')} takes the number of images in a batch as a fixed number"
    last = chain[-1]
    return f"{type(last).__name__}{_place(chain)}: {_first_line(last)}"


def _decision(made: str, place: str) -> str:
    """Why a model whose code decides after a number of the image has no graph; ``made``: which operation, and where."""
    elsewhere = "" if made.endswith(place) else place
    return (
        f"{made} makes a number that depends on the image, and the code{elsewhere} goes one way or another after it, "
        "which a graph cannot"
    )


def _chain(error: BaseException) -> list[BaseException]:
    """The error and what caused it, the cause last."""
    chain = [error]
    while (cause := chain[-1].__cause__ or chain[-1].__context__) is not None and cause not in chain:
        chain.append(cause)
    return chain


def _place(chain: Sequence[BaseException]) -> str:
    """The last line of a model's own code that led to the errors."""
    places = (_place_of(traceback.extract_tb(error.__traceback__)) for error in reversed(chain))
    return next(filter(None, places), "")


def _place_of(stack: traceback.StackSummary) -> str:
    """The last line of a model's own code on a stack."""
    for frame in reversed(stack):
        if _is_model_code(frame.filename):
            return f" at `{frame.line}` ({_shown(frame.filename)}, {frame.name})"
    return ""


def _is_model_code(file: str) -> bool:
    """Whether a file is neither of Python, of torch, nor of this package."""
    path, paths = Path(file).resolve(), sysconfig.get_paths()
    if path.is_relative_to(paths["purelib"]):
        return path.relative_to(paths["purelib"]).parts[0] != "torch"
    return (
        path.is_file() and not path.is_relative_to(paths["stdlib"]) and path.parent != Path(__file__).resolve().parent
    )


def _shown(file: str) -> str:
    """A file's path from its package on."""
    path, site = Path(file), Path(sysconfig.get_paths()["purelib"])
    if path.is_relative_to(site):
        return str(path.relative_to(site))
    return "/".join(path.parts[-3:])


def _first_line(error: BaseException) -> str:
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return lines[0] if lines else "no reason given"
