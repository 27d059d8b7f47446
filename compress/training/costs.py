"""What a whole network costs and returns, whatever its layers are."""

import torch
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from cnncompress.errors import ModelError


def count_macs(model: nn.Module, input_size: tuple[int, int, int]) -> int:
    """Count those of convolutions, transposed ones too, and matrix products, by running one image.

    Args:
        model: left as it was; a layer that runs twice counts twice.
        input_size: channels, height and width.

    Returns:
        Multiply-accumulates of one image.
    """
    with FlopCounterMode(display=False) as counter:
        outputs_of(model, input_size)
    return int(counter.get_total_flops()) // 2  # the counter takes a multiply-accumulate for two


def outputs_of(model: nn.Module, input_size: tuple[int, int, int]) -> Tensor:
    """Run one black image in evaluation mode.

    Args:
        model: left as it was.
        input_size: channels, height and width.

    Returns:
        What the network returns.

    Raises:
        ModelError: it can't read images of that size.
    """
    reference = next(model.parameters(), torch.zeros(()))
    example = torch.zeros((1, *input_size), dtype=reference.dtype, device=reference.device)
    modes = {module: module.training for module in model.modules()}
    try:
        model.eval()
        with torch.no_grad():
            output: Tensor = model(example)
    except RuntimeError as error:
        reason = (str(error).splitlines() or ["RuntimeError"])[0]
        raise ModelError(f"the network fails on an input of shape {tuple(example.shape)}: {reason}") from None
    finally:
        for module, training in modes.items():
            module.training = training
    return output
