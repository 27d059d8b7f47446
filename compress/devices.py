"""Devices by name, checked before the work."""

import torch

from cnncompress.errors import OptionError


def usable_device(name: str) -> torch.device:
    """Find out whether a device exists and computes.

    Args:
        name: as torch names it, for example ``"cpu"`` or ``"cuda:1"``.

    Returns:
        The device.

    Raises:
        OptionError: torch doesn't know it, or it isn't there.
    """
    try:
        device = torch.device(name)
        float(torch.zeros(1, device=device).sum())
    except (RuntimeError, AssertionError, NotImplementedError) as error:
        reason = (str(error).splitlines() or [type(error).__name__])[0]
        raise OptionError(f"device {name!r} can't be used ({reason}); try cpu") from None
    return device
