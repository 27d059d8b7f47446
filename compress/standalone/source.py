"""The text of model.py."""

import inspect
import re
from collections.abc import Mapping, Sequence
from copy import deepcopy
from itertools import chain
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined
from torch import nn

from cnncompress.standalone import parts
from cnncompress.standalone.forward import forward_lines, named_tuples
from cnncompress.standalone.literals import as_name, is_container, literal
from cnncompress.standalone.operations import named_tuple
from cnncompress.standalone.tracing import Unit, Units, find_units
from cnncompress.standalone.tree import Call, Tree

PARTS = (
    parts.Block,
    parts.ChannelOrder,
    parts.StochasticDepth,
    parts.SameConv2d,
    parts.TopologicalConv2d,
)
RESAMPLING = {"nearest": 0, "bilinear": 2, "bicubic": 3}  # Pillow's numbers
OWN_NAMES = frozenset(
    {"F", "load", "load_file", "preprocess", "main", "sys", "prod", "Sequence"}
    | {"WEIGHTS", "INPUT_SIZE", "RESIZE", "MEAN", "STD", "CATEGORIES"}
)


def model_source(
    model: nn.Module,
    *,
    input_size: Sequence[int],
    preprocess: Mapping[str, Any],
    categories: Sequence[str] = (),
    header: Sequence[str] = (),
    classifies: bool = True,
    nested: bool = True,
) -> str:
    """Write a network as Python source that needs torch and safetensors alone.

    Args:
        model: left as it was.
        input_size: channels, height and width.
        preprocess: what `Preprocess.to_json` returns.
        categories: class names in the order of the outputs.
        header: lines that say where the network comes from.
        classifies: whether the output is one score for each class.
        nested: whether modules get classes of their own; else all is called from one forward method.

    Returns:
        The same text for the same network.

    Raises:
        UnwritableError: the network has no such form; the message says why.
    """  # noqa: DOC502  # raised by what it calls
    copy = _sharing_tensors(model)
    units = find_units(copy, nested=nested)
    used = _used(copy, units)
    classes, class_names = _classes(used, copy)
    tree, call = Tree.of(copy, units, class_names)
    own_forward = id(copy) in class_names
    root = class_names.get(id(copy), "Network")
    kind, _, opening = call.head.partition("(")
    construction = Call(f"super().__init__({opening}", call.entries, call.tail).lines("", "", 8)
    root_forward = classes.pop(root, [])
    code = "\n".join([*chain(*classes.values()), *root_forward, *construction, *tree.afterwards])
    needed = {part.__name__ for part in tree.parts}
    if classes or kind == root or re.search(r"\bBlock\(", code):
        needed.add("Block")
    sources = [inspect.getsource(part) for part in PARTS if part.__name__ in needed]
    tuples = {named_tuple(kind): list(vars(kind)["_fields"]) for unit in used for kind in named_tuples(unit)}
    text: str = _template().render(
        header=header,
        uses=_uses("\n".join([code, *sources]), tuples=bool(tuples), tensor=not classifies),
        tuples=tuples,
        parts=sources,
        classes=classes,
        root=root,
        base="Block" if own_forward and kind == root else kind,
        construction=construction,
        afterwards=tree.afterwards,
        root_forward=root_forward,
        input_size=tuple(input_size),
        resize=preprocess["resize"],
        mean=tuple(preprocess["mean"]),
        std=tuple(preprocess["std"]),
        interpolation=preprocess["interpolation"],
        resample=RESAMPLING[preprocess["interpolation"]],
        categories=list(categories),
        classifies=classifies,
    )
    return text


def _uses(code: str, *, tuples: bool, tensor: bool) -> dict[str, Any]:
    """Which imports the code needs."""
    found = {name: bool(re.search(rf"\b{name}\.", code)) for name in ("F", "math", "operator")}
    ordered = ["OrderedDict"] if "OrderedDict(" in code else []
    return {
        **found,
        "collections": [*ordered, *(["namedtuple"] if tuples else [])],
        "sequence": "Sequence[" in code,
        "prod": bool(re.search(r"(?<!\.)\bprod\(", code)),
        "tensor": tensor or bool(re.search(r"(?<!\.)\bTensor\b", code)),
    }


def _classes(used: Sequence[Unit], root: nn.Module) -> tuple[dict[str, list[str]], dict[int, str]]:
    """Forward methods by the names of their classes, and the classes' names by the modules' identity."""
    reserved = OWN_NAMES | {part.__name__ for part in PARTS}
    reserved |= {named_tuple(kind) for unit in used for kind in named_tuples(unit)}
    found: dict[tuple[str, tuple[str, ...]], str] = {}
    classes: dict[str, list[str]] = {}
    names: dict[int, str] = {}
    for unit in used:
        kind = type(unit.module)
        wanted = "Network" if is_container(unit.module) else as_name(kind.__name__, "Part")
        lines = forward_lines(unit, reserved)
        key = (wanted, tuple(lines))
        if key not in found or unit.module is root:
            name, number = wanted, 1
            while name in classes or name in reserved:
                number += 1
                name = f"{wanted}{number}"
            found[key] = name
            classes[name] = lines
        names[id(unit.module)] = found[key]
    return classes, names


def _used(root: nn.Module, units: Units) -> list[Unit]:
    """The traced modules that are called alone, callees first and the network last."""
    found: dict[int, Unit] = {}

    def visit(module: nn.Module) -> None:
        unit = units.traced.get(id(module))
        if id(module) in found:
            return
        if unit is None:
            if is_container(module) and isinstance(module, nn.Sequential):
                for child in module._modules.values():
                    if child is not None:
                        visit(child)
            return
        for graph in (unit.evaluating, unit.training):
            for node in graph.nodes if graph is not None else ():
                if node.op == "call_module":
                    visit(module.get_submodule(str(node.target)))
        found[id(module)] = unit

    visit(root)
    return list(found.values())


def _sharing_tensors(model: nn.Module) -> nn.Module:
    """A copy of the modules that holds the same tensors: tracing computes nothing."""
    tensors = [*model.parameters(), *model.buffers()]
    return deepcopy(model, {id(tensor): tensor for tensor in tensors})


def _template() -> Any:
    environment = Environment(
        loader=PackageLoader("cnncompress", ""),
        autoescape=False,  # noqa: S701  # Python, not HTML: everything goes through repr
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
    )
    environment.filters["literal"] = literal
    return environment.get_template("model.py.jinja")
