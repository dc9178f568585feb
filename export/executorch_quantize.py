"""Quantize a captured graph the way XNNPACK computes it.

In: ``Captured`` and a ``Recipe``. Out: ``Quantized``, the same graph with quantizers in it, still runnable in torch.

    int8          static, by PT2E: weights per output channel, activations per tensor from the calibration samples
    int8-dynamic  linear layers: weights per output channel, activations per row at run time
    int4          linear layers: weights in groups along the input, activations per row in int8 at run time

The last two store embeddings as int8, a scale for each row. Entry points that share a weight share its quantized form.
All three rewrite the graph, not the module: what torchao's ``quantize_`` would replace in place is shared between entry
points, and a layer written with ``torch.nn.functional.linear`` has no module to replace. Raises UsageError for a group
size that XNNPACK cannot do and UnsupportedError for a graph that PT2E cannot.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from dataclasses import dataclass
from fnmatch import fnmatchcase
from typing import TYPE_CHECKING, Any, ClassVar

from edge.errors import UnsupportedError, UsageError
from edge.export.base import Captured
from edge.export.capture import to_tensors, trace
from edge.export.executorch_graph import executorch_tools, module_path, module_paths, reason
from edge.progress import Progress
from edge.spec import Recipe, Scheme

if TYPE_CHECKING:
    import torch
    from torch import nn
    from torch.export import ExportedProgram
    from torch.fx import GraphModule, Node

#: XNNPACK's kernels for int4 weights in groups take multiples of this (xnn_define_blockwise_quantized_tensor_value).
GROUP_MULTIPLE = 32
#: Elements from which a look-up table counts as an embedding, and the smallest scale of its rows.
TABLE = 1 << 16
TINY = 1e-12
#: Elements of a weight whose scales are not searched for.
LARGE = 1 << 27


@dataclass(frozen=True)
class Quantized:
    """``module`` computes in torch what ``program`` will compute when lowered; ``layers`` of its layers are quantized.

    ``warnings`` are sentences on what stayed in float.
    """

    program: ExportedProgram
    module: nn.Module
    layers: int
    warnings: tuple[str, ...]


#: Float weights and their quantized form, by the memory of the float ones, which captured programs keep alive.
Shared = dict[int, tuple["torch.Tensor", "torch.nn.Parameter"]]


def quantize(
    captured: Captured, recipe: Recipe, shared: Shared | None = None, progress: Progress | None = None
) -> Quantized:
    """Quantize one entry point as ``recipe`` says, except what matches its ``keep_float``.

    Entry points that are given the same ``shared`` have what they share quantized once.
    """
    if recipe.scheme is Scheme.INT4 and (recipe.group_size < GROUP_MULTIPLE or recipe.group_size % GROUP_MULTIPLE):
        raise UsageError(
            f"ExecuTorch has no int4 weights in groups of {recipe.group_size}: choose a multiple of {GROUP_MULTIPLE}."
        )
    if recipe.scheme is Scheme.INT8:
        return _static(captured)
    return _weights(captured, recipe, {} if shared is None else shared, progress or Progress())


def _static(captured: Captured) -> Quantized:
    """PT2E with XNNPACK's quantizer: observe the calibration samples, then convert."""
    import torch

    with executorch_tools():
        from executorch.backends.xnnpack.quantizer.xnnpack_quantizer import (
            XNNPACKQuantizer,
            get_symmetric_quantization_config,
        )
        from executorch.backends.xnnpack.quantizer.xnnpack_quantizer_utils import propagate_annotation
        from torchao.quantization.pt2e.quantize_pt2e import convert_pt2e, prepare_pt2e
        from torchao.quantization.pt2e.quantizer.quantizer import Q_ANNOTATION_KEY

        class Quantizer(XNNPACKQuantizer):  # type: ignore[misc]
            # Without the patterns for training, which cost seconds and are folded away before they could match.
            SUPPORTED_PATTERNS: ClassVar = [pattern for pattern in XNNPACKQuantizer.SUPPORTED_PATTERNS if not pattern.is_qat]

            def transform_for_annotation(self, model: GraphModule) -> GraphModule:
                # Theirs makes float tensors of all numbers that are added or multiplied: integers' sums turn float.
                return model

            def annotate(self, model: GraphModule) -> GraphModule:
                model = self._annotate_for_quantization_config(model)
                # Theirs annotates every concatenation, whatever the filter says.
                for node in model.graph.nodes:
                    if node.target is torch.ops.aten.cat.default and not self.filter_fn(node):
                        node.meta.pop(Q_ANNOTATION_KEY, None)
                propagate_annotation(model)
                return model

        quantizer = Quantizer().set_global(get_symmetric_quantization_config(is_per_channel=True))
        quantizer.set_filter_function(_static_filter(captured.entry.keep_float))
        try:
            prepared = prepare_pt2e(captured.program.module(), quantizer)
            for sample in captured.calibration:
                prepared(*to_tensors(captured.entry, sample))
            module = convert_pt2e(prepared)
        except Exception as error:  # torchao raises whatever its passes run into
            raise UnsupportedError(
                f"torchao cannot quantize {captured.entry.name} ({reason(error)}): choose int8-dynamic or fp32."
            ) from error
        program = trace(captured.entry, module, to_tensors(captured.entry, captured.references[0][0]))
    layers = [node for node in module.graph.nodes if node.target in _gemms()]
    layers = [node for node in layers if "dequantize" in str(getattr(node.args[1], "target", ""))]
    return Quantized(program, module, len(layers), ())


def _static_filter(keep_float: tuple[str, ...]) -> Callable[[Node], bool]:
    """Which nodes the quantizer may take.

    Convolutions and linear layers, and the additions and concatenations of what they compute (residual branches). Other
    sums and all products stay in float: XNNPACK's float kernels for them cost next to nothing, and one scale for a
    whole tensor ruins gates and hand-written normalisations, whose factors differ by orders of magnitude.
    """
    import torch

    aten = torch.ops.aten
    joins = (aten.add.Tensor, aten.add_.Tensor, aten.cat.default)
    products = (aten.mul.Tensor, aten.mul_.Tensor)
    carries = (
        aten.relu.default, aten.relu_.default, aten.hardtanh.default, aten.hardtanh_.default, aten.dropout.default,
        aten.max_pool2d.default, aten.adaptive_avg_pool2d.default, aten.mean.dim, aten.permute.default,
        aten.transpose.int, aten.view.default, aten.reshape.default, aten.flatten.using_ints, aten.slice.Tensor,
    )  # fmt: skip

    @functools.cache
    def comes_quantized(node: Node) -> bool:
        if _kept(node, keep_float):
            return False
        if node.target in carries:
            return comes_quantized(node.all_input_nodes[0])
        if node.target in joins:
            return len(node.all_input_nodes) > 1 and all(map(comes_quantized, node.all_input_nodes))
        return node.target in _gemms()

    def takes(node: Node) -> bool:
        if _kept(node, keep_float):
            return False
        return node.target not in products and (node.target not in joins or comes_quantized(node))

    return takes


def _weights(captured: Captured, recipe: Recipe, shared: Shared, progress: Progress) -> Quantized:
    """Linear layers by torchao: each weight becomes a quantized tensor, which scales its activations when applied."""
    import torch

    entry = captured.entry
    group = recipe.group_size if recipe.scheme is Scheme.INT4 else None
    module = captured.program.module()
    uneven: list[str] = []
    convolutions: list[str] = []
    layers = 0
    nodes = list(module.graph.nodes)
    with executorch_tools(), progress.bar(f"quantizing {entry.name}", len(nodes)) as bar:
        for node in nodes:
            bar.advance()
            if node.target is torch.ops.aten.embedding.default and not _kept(node, entry.keep_float):
                _narrow_table(module, node)
            if node.target not in _gemms() or _kept(node, entry.keep_float):
                continue
            weight = _constant(module, node.args[1])
            if node.target is not torch.ops.aten.linear.default:
                convolutions.append(module_path(node) or "the top level")
            elif weight is not None and group is not None and weight.shape[1] % group:
                uneven.append(f"{module_path(node) or 'the top level'} ({weight.shape[1]} inputs)")
            elif weight is not None:
                name = f"quantized_weight_{layers}"
                place = weight.data_ptr()
                if place not in shared:
                    shared[place] = weight, _quantized_weight(weight, group)
                module.register_parameter(name, shared[place][1])
                with module.graph.inserting_before(node):
                    quantized = module.graph.get_attr(name)
                # torchao's tensors answer to the Python function, not to the operator below it.
                node.target = torch.nn.functional.linear
                node.args = (node.args[0], quantized, *node.args[2:])
                layers += 1
        module.graph.eliminate_dead_code()
        _drop_unread(module)
        module.recompile()
        program = trace(entry, module, to_tensors(entry, captured.references[0][0]))
    warnings = []
    if uneven:
        warnings.append(
            f"linear layers of {entry.name} that stay in float, because their inputs do not divide into groups of "
            f"{group}: {', '.join(uneven)}."
        )
    if convolutions:
        warnings.append(
            f"convolutions of {entry.name} that stay in float, because {recipe.scheme.value} is for linear layers and "
            f"int8 for both: {', '.join(convolutions)}."
        )
    return Quantized(program, module, layers, tuple(warnings))


def release(shared: Shared) -> None:
    """Free the float weights that have a quantized form: whoever still holds them cannot compute any more."""
    for weight, _ in shared.values():
        weight.untyped_storage().resize_(0)


def _drop_unread(module: GraphModule) -> None:
    """Take the parameters and buffers that no node reads out of ``module``."""
    read = {str(node.target) for node in module.graph.nodes if node.op == "get_attr"}
    for name in [name for named in (module.named_parameters, module.named_buffers) for name, _ in named(remove_duplicate=False)]:
        if name not in read:
            owner, _, attribute = name.rpartition(".")
            delattr(module.get_submodule(owner), attribute)


def _narrow_table(module: GraphModule, node: Node) -> None:
    """embedding(table, ids) -> embedding(int8 table, ids) as float * embedding(scales, ids), if the table is large."""
    import torch

    table = _constant(module, node.args[0])
    if table is None or table.numel() < TABLE or not table.is_floating_point():
        return
    scales = (table.detach().abs().amax(1, keepdim=True) / 127.0).clamp_min(TINY)
    name = f"narrow_{node.name}"
    module.register_buffer(f"{name}_rows", torch.round(table.detach() / scales).to(torch.int8))
    module.register_buffer(f"{name}_scales", scales)
    graph = module.graph
    with graph.inserting_before(node):
        found = [
            graph.call_function(torch.ops.aten.embedding.default, (graph.get_attr(f"{name}_{part}"), node.args[1]))
            for part in ("rows", "scales")
        ]
        wide = graph.call_function(torch.ops.aten._to_copy.default, (found[0],), {"dtype": table.dtype})
        value = graph.call_function(torch.ops.aten.mul.Tensor, (wide, found[1]))
    for new in (*found, wide, value):
        new.meta = {**node.meta}
    node.replace_all_uses_with(value)
    graph.erase_node(node)


def _quantized_weight(weight: torch.Tensor, group: int | None) -> torch.nn.Parameter:
    """``weight`` [out, in] in int4 groups of ``group``, or in int8 per output channel."""
    import torch
    from torchao.quantization import Int8DynamicActivationIntxWeightConfig, quantize_
    from torchao.quantization.granularity import PerAxis, PerGroup
    from torchao.quantization.quantize_.workflows import IntxChooseQParamsAlgorithm

    int4: torch.dtype = getattr(torch, "int4")  # noqa: B009  # torch's stubs lack it
    layer = torch.nn.Linear(weight.shape[1], weight.shape[0], bias=False, device="meta")
    layer.weight = torch.nn.Parameter(weight.detach().clone(), requires_grad=False)
    quantize_(
        layer,
        Int8DynamicActivationIntxWeightConfig(
            weight_dtype=torch.int8 if group is None else int4,
            weight_granularity=PerAxis(0) if group is None else PerGroup(group),
            # Scales that minimise the error of the weights, rather than just cover their range: 3-8 % less error.
            # (Not for a language model's head: the search keeps several copies of it in float.)
            intx_choose_qparams_algorithm=IntxChooseQParamsAlgorithm.HQQ_SCALE_ONLY
            if group and weight.numel() < LARGE
            else IntxChooseQParamsAlgorithm.AFFINE,
        ),
    )
    return layer.weight


def _kept(node: Node, patterns: tuple[str, ...]) -> bool:
    """Whether a module that ``node`` belongs to matches one of ``patterns``."""
    return any(fnmatchcase(path, pattern) for path in module_paths(node) for pattern in patterns)


def _constant(module: GraphModule, node: Any) -> torch.Tensor | None:
    """The tensor that a get_attr node reads; None if ``node`` is computed."""
    if getattr(node, "op", "") != "get_attr":
        return None
    owner, _, name = str(node.target).rpartition(".")
    value = getattr(module.get_submodule(owner), name)
    return value if value.dim() == 2 else None


def _gemms() -> tuple[Any, ...]:
    import torch

    aten = torch.ops.aten
    return (
        aten.linear.default, aten.conv1d.default, aten.conv2d.default, aten.conv_transpose1d.default,
        aten.conv_transpose2d.input, aten.convolution.default,
    )  # fmt: skip
