"""What a compressed network learns from the original: its outputs, or what its layers answer."""

from collections import defaultdict
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from math import isfinite
from types import TracebackType
from typing import Any, Literal, Self

import torch
from torch import Tensor, nn

from cnncompress.errors import ModelError, OptionError
from cnncompress.sampling import at_least_float32
from cnncompress.training.images import LabelledBatch
from cnncompress.training.losses import by_labels, distance, relative_error

KINDS = ("logits", "features", "layers")


@dataclass(frozen=True, kw_only=True)
class Distillation:
    """What is asked of the compressed network.

    Attributes:
        kind: ``"logits"``: the original's outputs; ``"features"``: also the outputs of its replaced layers;
            ``"layers"``: each replaced layer's outputs alone, given what reaches it, so that no layer learns
            for another one.
        temperature: that class scores are divided by (https://arxiv.org/abs/1503.02531). At 4 VGG-16 on
            CIFAR-10, 4x compressed, learned more in an epoch than at 1, by the divergence at 1 too.
        labels: share of the labels' cross-entropy in the loss of the outputs; 0 needs no labels.
        features: what the layers' mean relative error counts beside the loss of the outputs.
    """

    kind: Literal["logits", "features", "layers"] = "logits"
    temperature: float = 4.0
    labels: float = 0.0
    features: float = 1.0

    def __post_init__(self) -> None:
        if self.kind not in KINDS:
            raise OptionError(f"distillation is {', '.join(KINDS[:-1])} or {KINDS[-1]}, not {self.kind!r}")
        for name in ("temperature", "features"):
            value = getattr(self, name)
            if not (isfinite(value) and value > 0):
                raise OptionError(f"distillation: {name} must be above 0, got {value:g}; 1 is usual")
        if not 0 <= self.labels < 1:
            raise OptionError(
                f"distillation: the labels' share must be at least 0 and below 1, got {self.labels:g}; "
                "to train by labels alone, leave out the distillation"
            )
        if self.labels and self.kind == "layers":
            raise OptionError(
                "distillation: layers learn from the original's alone; set the labels' share to 0"
            )


class Distiller:
    """Compares a compressed network with the original while it runs; nothing is left of it on exit.

    Args:
        original: in evaluation mode; runs without gradients.
        compressed: the network that is trained; in a loss it is the one that has just run.
        replaced: names of the layers that were replaced, the same in both networks.
        how: what is compared.
        smoothing: of the labels.

    Raises:
        OptionError: layers are to be compared and there are none.
    """

    def __init__(
        self,
        original: nn.Module,
        compressed: nn.Module,
        replaced: Sequence[str],
        how: Distillation,
        smoothing: float = 0.0,
    ) -> None:
        if how.kind != "logits" and not replaced:
            raise OptionError(f"distillation by {how.kind}: no layer was replaced; take logits")
        self._original, self._compressed, self._how = original, compressed, how
        self._replaced = tuple(replaced) if how.kind != "logits" else ()
        self._by_labels = by_labels(smoothing)
        self._expected = _Outputs()
        self._found = _Outputs()
        self._hooks = ExitStack()

    def __enter__(self) -> Self:
        for name in self._replaced:
            layer = self._compressed.get_submodule(name)
            if self._how.kind == "layers":
                self._hooks.callback(layer.register_forward_pre_hook(_cut_off).remove)
            self._hooks.callback(layer.register_forward_hook(self._found.catch(name)).remove)
            told = self._original.get_submodule(name)
            self._hooks.callback(told.register_forward_hook(self._expected.catch(name)).remove)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._hooks.close()
        self._found.take()
        self._expected.take()

    def loss(self, output: Tensor, batch: LabelledBatch) -> Tensor:
        """What is left to learn.

        Args:
            output: of the compressed network, which has just run.
            batch: that it ran on.

        Returns:
            A mean over the images.
        """
        found = self._found.take()
        with torch.no_grad():
            expected_output = self._original(batch.images.clone())  # it may begin with a function in place
        expected = self._expected.take()
        errors = [
            _relative_error(name, answer, wanted)
            for name in found
            for answer, wanted in zip(found[name], expected[name], strict=True)
        ]
        if self._how.kind == "layers":
            return torch.stack(errors).sum()
        value = distance(output, expected_output, self._how.temperature)
        if self._how.labels:
            value = value * (1 - self._how.labels) + self._by_labels(output, batch) * self._how.labels
        # none for auxiliary outputs, whose network has run only once
        return value + self._how.features * torch.stack(errors).mean() if errors else value


class _Outputs:
    """What layers returned since it was asked for last."""

    def __init__(self) -> None:
        self._caught: dict[str, list[Tensor]] = defaultdict(list)

    def catch(self, name: str) -> Callable[[nn.Module, Any, Tensor], None]:
        def follow(module: nn.Module, inputs: Any, output: Tensor) -> None:
            del module, inputs
            # a copy: what follows may work in place
            self._caught[name].append(output.clone())

        return follow

    def take(self) -> dict[str, list[Tensor]]:
        caught, self._caught = self._caught, defaultdict(list)
        return caught


def _cut_off(module: nn.Module, inputs: tuple[Any, ...]) -> tuple[Any, ...]:
    del module
    return tuple(one.detach() if isinstance(one, Tensor) else one for one in inputs)


def _relative_error(name: str, answer: Tensor, wanted: Tensor) -> Tensor:
    if answer.shape != wanted.shape:
        raise ModelError(
            f"{name}: the compressed layer's output has shape {tuple(answer.shape)}, the original's "
            f"{tuple(wanted.shape)}; distil by logits"
        )
    return relative_error(at_least_float32(answer), at_least_float32(wanted))
