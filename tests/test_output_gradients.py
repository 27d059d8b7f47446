"""Gradient moments against exact Jacobians, and as predictions of what small errors cost."""

from functools import partial
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.func import jacrev

from cnncompress.distortion.output_gradients import gradient_moments
from cnncompress.distortion.output_loss import OutputLoss
from cnncompress.errors import DataError, ModelError, NumericsError, OptionError
from cnncompress.inspect import LayerInfo, inspect_layers

IMAGES = torch.randn(6, 3, 8, 8, generator=torch.Generator().manual_seed(1))


class Residual(nn.Module):
    """Functions that overwrite what the backward pass needs, and a skip connection."""

    def __init__(self, inplace: bool = True) -> None:
        super().__init__()
        self.inplace = inplace
        self.first = nn.Conv2d(3, 4, 3, padding=1)
        self.second = nn.Conv2d(4, 4, 3, padding=1)
        self.last = nn.Linear(4, 5)
        self.relu = nn.ReLU(inplace=inplace)
        self.scale = nn.Parameter(torch.rand(4, 1, 1))

    def forward(self, x: Tensor) -> Tensor:
        x = self.relu(self.first(x))
        y = self.relu(self.second(x))
        if self.inplace:
            y *= self.scale
            y += x
        else:
            y = y * self.scale + x
        return self.last(self.relu(y).mean((2, 3)))


class Twice(nn.Module):
    """One layer that runs two times, to a feature map."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Conv2d(3, 3, 3, padding=1)

    def forward(self, x: Tensor) -> dict[str, Tensor]:
        once = torch.relu(self.layer(x))
        return {"once": once, "twice": self.layer(once)}


def vgg_like(inplace: bool = True) -> nn.Sequential:
    return nn.Sequential(
        nn.Conv2d(3, 4, 3, padding=1),
        nn.ReLU(inplace=inplace),
        nn.Conv2d(4, 5, 3),
        nn.ReLU(inplace=inplace),
        nn.MaxPool2d(2),
        nn.Flatten(),
        nn.Linear(45, 6),
        nn.ReLU(inplace=inplace),
        nn.Dropout(0.5),
        nn.Linear(6, 4),
    )


def built(make: Any) -> nn.Module:
    torch.manual_seed(0)
    model = make().eval()
    for parameter in model.parameters():
        parameter.data *= 1.5
    return model


def layers_of(model: nn.Module) -> tuple[LayerInfo, ...]:
    return inspect_layers(model, (3, 8, 8))


def with_error(model: nn.Module, name: str, image: Tensor, error: Tensor) -> Any:
    """The output with an error added to one layer's response, for one image."""
    handle = model.get_submodule(name).register_forward_hook(lambda module, inputs, output: output + error)
    try:
        return model(image[None].clone())
    finally:
        handle.remove()


def response_shape(layer: LayerInfo) -> tuple[int, ...]:
    grid = layer.output_size if layer.kind == "conv2d" else ()
    return (1, layer.out_channels, *grid)


def exact(model: nn.Module, layer: LayerInfo, images: Tensor) -> np.ndarray:
    """Half the Fisher information of the responses, summed over the positions."""
    total = np.zeros((layer.out_channels,) * 2)
    for image in images:
        zero = torch.zeros(response_shape(layer))
        jacobian = jacrev(lambda e, image=image: with_error(model, layer.name, image, e)[0])(zero)
        rows = jacobian.detach().double().reshape(len(jacobian), layer.out_channels, -1).numpy()
        p = model(image[None].clone())[0].detach().double().softmax(0).numpy()
        total += 0.5 * np.einsum("kap,kl,lbp->ab", rows, np.diag(p) - np.outer(p, p), rows)
    return total / len(images)


@pytest.mark.parametrize("make", [vgg_like, Residual])
def test_mean_over_seeds_is_the_exact_fisher_information(make: Any, tensor_source: Any) -> None:
    model = built(make)
    layers = layers_of(model)
    source = tensor_source(IMAGES)
    found = [gradient_moments(model, layers, source, seed=seed, batch_size=6) for seed in range(150)]
    plain = built(partial(make, inplace=False))  # jacrev allows no function to work in place
    for layer in layers:
        expected = exact(plain, layer, IMAGES)
        mean = np.mean([one[layer.name] for one in found], axis=0)
        assert np.linalg.norm(mean - expected) < 0.15 * np.linalg.norm(expected), layer.name


@pytest.mark.parametrize("make", [vgg_like, Residual, Twice])
def test_predicts_what_small_independent_errors_cost(make: Any, tensor_source: Any) -> None:
    model, generator = built(make), torch.Generator().manual_seed(2)
    source = tensor_source(IMAGES)
    layers = layers_of(model)
    seeds = [gradient_moments(model, layers, source, seed=seed, batch_size=6) for seed in range(60)]
    for layer in layers:
        size = response_shape(layer)
        mixing = torch.randn(size[1], size[1], generator=generator)
        covariance = (mixing @ mixing.T).double().numpy() * 1e-6
        predicted = np.mean([np.trace(one[layer.name] @ covariance) for one in seeds])

        def disturb(module: nn.Module, inputs: Any, output: Tensor, mixing: Tensor = mixing) -> Tensor:
            noise = torch.randn(output.shape, generator=generator).movedim(1, -1) @ mixing.T
            return output + 1e-3 * noise.movedim(-1, 1)

        many = IMAGES.repeat(40, 1, 1, 1)
        with torch.no_grad():
            before = model(many.clone())
            handle = model.get_submodule(layer.name).register_forward_hook(disturb)
            after = model(many.clone())
            handle.remove()
        loss = OutputLoss.of(before)
        real = loss.total(before, after, len(many)) / loss.weight(before, len(many))
        assert predicted == pytest.approx(real, rel=0.2), layer.name


def test_squared_error_of_a_linear_network_is_exact_in_the_mean(tensor_source: Any) -> None:
    model = built(lambda: nn.Sequential(nn.Conv2d(3, 4, 1), nn.Conv2d(4, 2, 1)))
    found = [
        gradient_moments(model, layers_of(model), tensor_source(IMAGES), seed=seed)["0"] for seed in range(40)
    ]
    weight = model[1].weight.detach()[:, :, 0, 0].double().numpy()
    with torch.no_grad():
        energy = float(model(IMAGES).double().square().sum()) / len(IMAGES)
    np.testing.assert_allclose(
        np.mean(found, axis=0), 64 * weight.T @ weight / energy, rtol=0.05, atol=0.01 * 64 / energy
    )


def test_in_place_rectifiers_change_nothing(tensor_source: Any) -> None:
    source = tensor_source(IMAGES)
    plain, inplace = built(lambda: vgg_like(False)), built(vgg_like)
    expected = gradient_moments(plain, layers_of(plain), source)
    found = gradient_moments(inplace, layers_of(inplace), source)
    for name, moments in expected.items():
        np.testing.assert_allclose(found[name], moments, rtol=1e-6)


@pytest.mark.parametrize("make", [vgg_like, Residual, Twice])
def test_batches_do_not_matter(make: Any, tensor_source: Any) -> None:
    model = built(make)
    one, many = (
        gradient_moments(model, layers_of(model), tensor_source(IMAGES), images=5, batch_size=size)
        for size in (1, 5)
    )
    for name, moments in one.items():
        scale = float(np.abs(moments).max())
        np.testing.assert_allclose(many[name], moments, rtol=0, atol=1e-5 * scale)
        np.testing.assert_array_equal(moments, moments.T)


def test_labels_are_taken_on_demand(tensor_source: Any) -> None:
    model = built(vgg_like)
    layers = layers_of(model)[-1:]
    labels = torch.arange(6) % 4
    source = tensor_source(IMAGES, labels)
    with torch.no_grad():
        gradients = (torch.eye(4)[labels] - model(IMAGES.clone()).softmax(1)).double().numpy()
    found = gradient_moments(model, layers, source, labels=True)["9"]
    np.testing.assert_allclose(found, 0.5 * gradients.T @ gradients / 6, rtol=1e-5, atol=1e-9)
    drawn = gradient_moments(model, layers, source)["9"]
    np.testing.assert_array_equal(drawn, gradient_moments(model, layers, tensor_source(IMAGES))["9"])
    assert not np.allclose(drawn, found)
    with pytest.raises(DataError, match="label 4"):
        gradient_moments(model, layers, tensor_source(IMAGES, labels + 1), labels=True)


def test_leaves_the_network_as_it_was(tensor_source: Any) -> None:
    model = built(Residual).train()
    model.first.requires_grad_(False)
    layers = layers_of(model)
    expected = gradient_moments(model, layers, tensor_source(IMAGES))
    before = {name: value.clone() for name, value in model.state_dict().items()}
    images = IMAGES.clone()
    with torch.inference_mode():
        found = gradient_moments(model, layers, tensor_source(images))
    for name, moments in expected.items():
        np.testing.assert_array_equal(found[name], moments)
    assert all(module.training for module in model.modules())
    assert not any(module._forward_hooks for module in model.modules())
    assert all(parameter.grad is None for parameter in model.parameters())
    assert [p.requires_grad for p in model.first.parameters()] == [False, False]
    assert model.second.weight.requires_grad
    torch.testing.assert_close(model.state_dict(), before, rtol=0, atol=0)
    torch.testing.assert_close(images, IMAGES, rtol=0, atol=0)


def test_networks_made_in_inference_mode(tensor_source: Any) -> None:
    with torch.inference_mode():
        model = built(vgg_like)
        found = gradient_moments(model, layers_of(model), tensor_source(IMAGES.clone()))
    plain = built(vgg_like)
    expected = gradient_moments(plain, layers_of(plain), tensor_source(IMAGES))
    for name, moments in expected.items():
        np.testing.assert_allclose(found[name], moments, rtol=1e-6)


def test_a_layer_without_influence_costs_nothing(tensor_source: Any) -> None:
    class Idle(Residual):
        def forward(self, x: Tensor) -> Tensor:
            self.second(self.first(x))
            return super().forward(x.detach()) + 0 * x.mean()

    model = built(Idle)
    with torch.no_grad():
        model.last.weight.zero_()
    found = gradient_moments(model, layers_of(model), tensor_source(IMAGES))
    assert not found["second"].any()
    assert found["last"].any()


def test_broken_weights_are_named(tensor_source: Any) -> None:
    model = built(Residual)
    layers = layers_of(model)
    with torch.no_grad():
        model.second.weight[0, 0, 0, 0] = float("nan")
    with pytest.raises(NumericsError, match="second"):
        gradient_moments(model, layers, tensor_source(IMAGES))


def test_outputs_must_be_differentiable(tensor_source: Any) -> None:
    class Rounded(Residual):
        def forward(self, x: Tensor) -> Tensor:
            return super().forward(x).detach()

    model = built(Rounded)
    with pytest.raises(ModelError, match="differentiated"):
        gradient_moments(model, layers_of(model), tensor_source(IMAGES))


def test_numbers_are_checked(tensor_source: Any) -> None:
    model = built(Residual)
    with pytest.raises(OptionError, match="images"):
        gradient_moments(model, layers_of(model), tensor_source(IMAGES), images=0)
    source = tensor_source(IMAGES)
    source.batches = lambda batch_size, order: iter(())
    with pytest.raises(DataError, match="no image"):
        gradient_moments(model, layers_of(model), source)
