"""The plan: the one description of a compressed network, which rebuilds it without data or pickle."""

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from torch import nn

from cnncompress.absorption import without_orders
from cnncompress.decompositions import check_ranks, make
from cnncompress.errors import ModelError, OutputError
from cnncompress.folding import fold_batchnorms
from cnncompress.inspect import inspect_layers

SCHEMA = 1


@dataclass(frozen=True, kw_only=True)
class LayerPlan:
    """What happens to one layer.

    Attributes:
        name: of the layer.
        method: name of a decomposition, or ``"none"`` if the layer stays.
        ranks: of the replacement; empty if the layer stays.
        options: of the decomposition.
        reason: why the layer stays or got these ranks.
    """

    name: str
    method: str
    ranks: tuple[int, ...] = ()
    options: Mapping[str, Any] = field(default_factory=dict)
    reason: str = ""


@dataclass(frozen=True, kw_only=True)
class Plan:
    """Every decision about a network.

    Attributes:
        network: name of the network, as the user typed it.
        source: recipe for the original architecture, see `cnncompress.models.rebuild`.
        input_size: channels, height and width of one input.
        preprocess: see `cnncompress.network.Preprocess`.
        features: submodule that yields the last feature map, or None.
        categories: class names in the order of the outputs.
        folded: layers and the BatchNorms folded into them.
        layers: what happens to each layer.
        absorbed: permutations of channels that were merged into neighbouring weights.
        options: resolved options of the run.
        seed: of the run.
        data_hash: of the list of calibration images; empty without data.
        environment: versions of what ran.
        finetuned: one record for each time that the network was fine-tuned since: recipe, images, versions.
    """

    network: str
    source: Mapping[str, Any]
    input_size: tuple[int, int, int]
    preprocess: Mapping[str, Any] = field(default_factory=dict)
    features: str | None = None
    categories: tuple[str, ...] = ()
    folded: tuple[tuple[str, str], ...] = ()
    layers: tuple[LayerPlan, ...] = ()
    absorbed: tuple[str, ...] = ()
    options: Mapping[str, Any] = field(default_factory=dict)
    seed: int = 0
    data_hash: str = ""
    environment: Mapping[str, Any] = field(default_factory=dict)
    finetuned: tuple[Mapping[str, Any], ...] = ()

    def build(self, model: nn.Module) -> nn.Module:
        """The compressed architecture.

        Args:
            model: the original architecture, with any weights; left as it was.

        Returns:
            A copy with all replacements in place; their weights are untrained.

        Raises:
            ModelError: the model isn't the one that the plan was made for.
        """
        layers = {layer.name: layer for layer in inspect_layers(model, self.input_size)}
        for name in [layer.name for layer in self.layers] + [name for name, _ in self.folded]:
            if name not in layers:
                raise ModelError(
                    f"{name}: the plan names this layer, but the model has none; is it for {self.network}?"
                )
        copy = fold_batchnorms(model, self.folded)
        # as the run saw them: with BatchNorm folded, other functions follow
        layers = {layer.name: layer for layer in inspect_layers(copy, self.input_size)}
        for layer in self.layers:
            if layer.method != "none":
                method = make(layer.method, layer.options)
                check_ranks(method, layers[layer.name], layer.ranks)
                chain = method.build(layers[layer.name], layer.ranks)
                like = next(copy.get_submodule(layer.name).parameters())
                copy.set_submodule(layer.name, chain.to(like.device, like.dtype))
        without_orders(copy, self.absorbed)
        return copy.eval()

    def to_json(self) -> dict[str, Any]:
        """The plan as JSON-able values.

        Returns:
            A dictionary that `from_json` reads back.
        """
        return {"schema": SCHEMA, **asdict(self)}

    @classmethod
    def from_json(cls, value: Mapping[str, Any]) -> "Plan":
        """Read what `to_json` wrote.

        Args:
            value: the fields.

        Returns:
            The plan.

        Raises:
            OutputError: a field is missing, unknown or of the wrong kind.
        """
        if value.get("schema") != SCHEMA:
            raise OutputError(
                f"plan has schema {value.get('schema')!r}, this version reads {SCHEMA}; "
                "use the version of cnncompress that wrote it"
            )
        fields = {key: item for key, item in value.items() if key != "schema"}
        try:
            layers = tuple(
                LayerPlan(**{**layer, "ranks": tuple(int(rank) for rank in layer["ranks"])})
                for layer in fields.pop("layers")
            )
            channels, height, width = fields.pop("input_size")
            folded = tuple((str(layer), str(norm)) for layer, norm in fields.pop("folded"))
            categories = tuple(fields.pop("categories"))
            absorbed = tuple(str(name) for name in fields.pop("absorbed", ()))
            finetuned = tuple(dict(record) for record in fields.pop("finetuned", ()))
            return cls(
                layers=layers,
                input_size=(int(channels), int(height), int(width)),
                folded=folded,
                categories=categories,
                absorbed=absorbed,
                finetuned=finetuned,
                **fields,
            )
        except (KeyError, TypeError, ValueError) as problem:
            raise OutputError(f"plan.json can't be understood: {problem}") from None

    @classmethod
    def read(cls, path: Path) -> "Plan":
        """Read plan.json.

        Args:
            path: the file.

        Returns:
            The plan.

        Raises:
            OutputError: the file can't be read or isn't a plan.
        """
        try:
            value = json.loads(path.read_text(encoding="utf-8"))
        except (OSError, UnicodeDecodeError, json.JSONDecodeError) as problem:
            raise OutputError(f"{path}: can't be read as a plan: {problem}") from None
        if not isinstance(value, dict):
            raise OutputError(f"{path}: can't be read as a plan: not a JSON object")
        return cls.from_json(value)

    def _repr_html_(self) -> str:
        from cnncompress.summary_html import plan_html  # noqa: PLC0415  # only notebooks need templates

        return plan_html(self.to_json())
