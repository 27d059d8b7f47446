"""A network's modules as one nested expression."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Self

import torch
from torch import Tensor, nn

from cnncompress.standalone.constructors import stand_in
from cnncompress.standalone.literals import UnwritableError, is_container, is_plain_name, path_to
from cnncompress.standalone.operations import CONSTANT, tensor_literal
from cnncompress.standalone.tracing import Units

WIDTH = 100


@dataclass(frozen=True)
class Call:
    """A call that is broken into lines where it is long.

    Attributes:
        head: what opens it.
        entries: labels, such as ``name=``, and values.
        tail: what closes it.
    """

    head: str
    entries: Sequence[tuple[str, "Call | str"]] = ()
    tail: str = ")"

    def lines(self, before: str, after: str, indent: int) -> list[str]:
        """The source, indented.

        Args:
            before: stands in front of it.
            after: stands behind it.
            indent: spaces.

        Returns:
            One line, or one for each entry and more.
        """
        flat = f"{' ' * indent}{before}{self.flat()}{after}"
        if len(flat) <= WIDTH or not self.entries:
            return [flat]
        inner: list[str] = []
        for label, value in self.entries:
            if isinstance(value, Call):
                inner += value.lines(label, ",", indent + 4)
            else:
                inner.append(f"{' ' * (indent + 4)}{label}{value},")
        return [f"{' ' * indent}{before}{self.head}", *inner, f"{' ' * indent}{self.tail}{after}"]

    def flat(self) -> str:
        """The source in one line.

        Returns:
            However long it gets.
        """
        shown = (f"{label}{v.flat() if isinstance(v, Call) else v}" for label, v in self.entries)
        return f"{self.head}{', '.join(shown)}{self.tail}"


@dataclass
class Tree:
    """Writes the modules of a network.

    Attributes:
        root: the network.
        units: its modules, sorted.
        class_names: of the modules whose forward is written, by identity.
        parts: classes of `cnncompress.standalone.parts` that are needed.
        afterwards: statements that follow once the modules stand: what is shared, and constant buffers.
    """

    root: nn.Module
    units: Units
    class_names: dict[int, str]
    parts: set[type[nn.Module]] = field(default_factory=set)
    afterwards: list[str] = field(default_factory=list)
    _homes: dict[int, str] = field(default_factory=dict)

    @classmethod
    def of(cls, root: nn.Module, units: Units, class_names: dict[int, str]) -> tuple[Self, Call]:
        """Write all modules.

        Args:
            root: the network.
            units: its modules, sorted.
            class_names: of the modules whose forward is written, by identity.

        Returns:
            What was found on the way, and the call that makes the network.
        """
        tree = cls(root, units, class_names)
        return tree, tree._module(root, "")

    def _module(self, module: nn.Module, path: str) -> Call:
        if id(module) in self._homes:
            self._share(path, self._homes[id(module)])
            return Call("nn.Identity(")
        self._homes[id(module)] = path
        constructor = self.units.constructors.get(id(module))
        if constructor is not None:
            replacement = stand_in(module)
            if replacement is not None:
                self.parts.add(replacement[1])
            self._note_shared(module, path, recurse=True)
            return Call(constructor[:-1])
        if is_container(module):
            return self._container(module, path)
        entries = [*self._tensors(module, path), *self._children(module, path)]
        return _keywords(self.class_names.get(id(module), "Block"), entries)

    def _container(self, module: nn.Module, path: str) -> Call:
        entries = self._children(module, path)
        names = [name for name, _ in entries]
        numbered = names == [str(position) for position in range(len(names))]
        keyed = [(f"{name!r}: ", call) for name, call in entries]
        if isinstance(module, nn.ModuleDict):
            return Call("nn.ModuleDict({", keyed, "})")
        if isinstance(module, nn.ModuleList):
            return Call("nn.ModuleList([", [("", call) for _, call in entries], "])")
        if numbered:
            return Call("nn.Sequential(", [("", call) for _, call in entries])
        return Call("nn.Sequential(OrderedDict({", keyed, "}))")

    def _children(self, module: nn.Module, path: str) -> list[tuple[str, "Call | str"]]:
        return [
            (name, self._module(child, _below(path, name)))
            for name, child in module._modules.items()
            if child is not None
        ]

    def _tensors(self, module: nn.Module, path: str) -> list[tuple[str, "Call | str"]]:
        self._note_shared(module, path, recurse=False)
        found: list[tuple[str, Call | str]] = []
        for name, parameter in module._parameters.items():
            if parameter is not None:
                found.append((name, f"nn.Parameter({_zeros(parameter)})"))
        for name, buffer in module._buffers.items():
            if buffer is not None and name not in module._non_persistent_buffers_set:
                found.append((name, _zeros(buffer)))
            elif buffer is not None:
                self._constant(name, buffer, path)
        return found

    def _constant(self, name: str, buffer: Tensor, path: str) -> None:
        if buffer.numel() > CONSTANT:
            raise UnwritableError(
                f"the buffer {_below(path, name)!r} isn't part of the state and too large to be written out"
            )
        owner = path_to(self.root, path)
        self.afterwards.append(
            f"{owner}.register_buffer({name!r}, {tensor_literal(buffer)}, persistent=False)"
        )

    def _note_shared(self, module: nn.Module, path: str, *, recurse: bool) -> None:
        for name, parameter in module.named_parameters(recurse=recurse, remove_duplicate=False):
            place = _below(path, name)
            home = self._homes.setdefault(id(parameter), place)
            if home != place:
                self._share(place, home)

    def _share(self, place: str, home: str) -> None:
        source, value = path_to(self.root, place), path_to(self.root, home)
        if source.endswith(")"):
            self.afterwards.append(f"setattr{source.removeprefix('getattr').removesuffix(')')}, {value})")
        else:
            self.afterwards.append(f"{source} = {value}")


def _keywords(name: str, entries: Sequence[tuple[str, Call | str]]) -> Call:
    plain = [(f"{label}=", value) for label, value in entries if is_plain_name(label)]
    if len(plain) == len(entries):
        return Call(f"{name}(", plain)
    return Call(f"{name}(**{{", [(f"{label!r}: ", value) for label, value in entries], "})")


def _zeros(tensor: Tensor) -> str:
    dtype = "" if tensor.dtype == torch.float32 else f", dtype={tensor.dtype}"
    return f"torch.zeros({tuple(tensor.shape)}{dtype})"


def _below(path: str, name: str) -> str:
    return f"{path}.{name}" if path else name
