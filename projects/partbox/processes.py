"""What the processes of one run say to each other; each function is a plain no-operation in a run of one process.

All processes must call the same functions in the same order, or they wait for each other for ever.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, TypeVar

import torch
import torch.distributed as dist
from detectron2.utils import comm
from torch import Tensor

Result = TypeVar("Result")


def rank() -> int:
    """The number of this process among those of the run, from 0."""
    return int(comm.get_rank())


def world_size() -> int:
    """How many processes train together; 1 without a process group."""
    return int(comm.get_world_size())


def is_main() -> bool:
    """Whether this process writes the run's files and log."""
    return rank() == 0


def summed(values: Tensor) -> Tensor:
    """The sum over all processes of a tensor (any shape, on the device that the process group works on).

    Every process gets the same bits. No gradient flows through it.
    """
    total = values.detach().clone()
    if world_size() > 1:
        dist.all_reduce(total)
    return total


def averaged(values: Tensor) -> Tensor:
    """The mean over all processes of a tensor; see :func:`summed`."""
    return summed(values) / world_size()


def averaged_count(count: Tensor | int) -> Tensor | float:
    """What a sum over this process's share of a batch is divided by, where the whole batch has a mean.

    DistributedDataParallel averages the gradients of the processes. With sums S_r and counts N_r, dividing each S_r by
    the average count makes that average the gradient of sum of S_r / sum of N_r, the loss that one process computes on
    the whole batch; the mean of means S_r / N_r would be another loss.

    Args:
        count: of the pixels, parts or images that this process's sum runs over.

    Returns:
        The mean over the processes; where none counts anything, what makes 0 / count 0.
    """
    if world_size() == 1:
        return count.clamp_min(1) if isinstance(count, Tensor) else max(count, 1)
    like = count if isinstance(count, Tensor) else torch.tensor(count, device=_device())
    return averaged(like.to(torch.float64)).clamp_min(1 / world_size()).to(torch.float32)


def averaged_together(tensors: Sequence[Tensor]) -> list[Tensor]:
    """The mean over all processes of each tensor, exchanged as one; all processes have the same shapes."""
    if world_size() == 1 or not tensors:
        return list(tensors)
    flat = averaged(torch.cat([tensor.detach().flatten().double() for tensor in tensors]))
    pieces = flat.split([tensor.numel() for tensor in tensors])
    return [piece.view_as(tensor).to(tensor) for piece, tensor in zip(pieces, tensors, strict=True)]


def averaged_by_name(values: Mapping[str, float]) -> dict[str, float]:
    """The mean over all processes of each number, in float64; all processes have the same names."""
    if world_size() == 1 or not values:
        return dict(values)
    row = averaged(torch.tensor(list(values.values()), dtype=torch.float64, device=_device()))
    return dict(zip(values, row.tolist(), strict=True))


def any_of(flag: bool) -> bool:
    """Whether the flag is set in any process; the same answer in all of them."""
    if world_size() == 1:
        return flag
    return bool(summed(torch.tensor(float(flag), device=_device())).item())


def gathered(value: Any) -> list[Any]:
    """What every process has, by rank, in all of them; picklable values."""
    if world_size() == 1:
        return [value]
    values: list[Any] = [None] * world_size()
    dist.all_gather_object(values, value)
    return values


def on_main(function: Callable[[], Result]) -> Result:
    """Let the main process call a function; its result, or its exception, reaches every process.

    Without this, a main process that refuses a setting would leave the others waiting for it. The result is pickled.
    """
    if world_size() == 1:
        return function()
    outcome: list[Any] = [None, None]
    if is_main():
        try:
            outcome[0] = function()
        except Exception as error:  # noqa: BLE001 raised below, in every process
            outcome[1] = error
    dist.broadcast_object_list(outcome, src=0)
    if outcome[1] is not None:
        raise outcome[1]
    result: Result = outcome[0]
    return result


def _device() -> int | str:
    """Where the process group wants its tensors; a number is that of a GPU."""
    return torch.cuda.current_device() if dist.get_backend() == "nccl" else "cpu"
