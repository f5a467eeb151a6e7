"""Batch normalisation with statistics over all workers, on CPU and GPU."""

import torch
import torch.distributed as dist
from torch import Tensor, nn


class SyncedBatchNorm2d(nn.BatchNorm2d):
    """`nn.BatchNorm2d` with training statistics over the samples of all workers.

    torch's SyncBatchNorm does not support CPU tensors. This one costs two all-reduces of a vector
    per layer and direction, and is exact for any number of samples per worker.
    """

    def forward(self, x_BCHW: Tensor) -> Tensor:
        """Normalise (B, C, H, W); in evaluation by the running statistics."""
        alone = not dist.is_initialized() or dist.get_world_size() == 1
        if not self.training or alone:
            return super().forward(x_BCHW)
        channels = x_BCHW.shape[1]
        x = x_BCHW.float()
        count = x.new_tensor([x.numel() / channels])
        # Two passes, because E[x²] - E[x]² cancels in fp32.
        totals = _sum_over_workers(torch.cat([x.sum(dim=(0, 2, 3)), count]))
        total = totals[-1].detach()
        mean = totals[:-1] / total
        centred = x - mean.view(1, -1, 1, 1)
        var = _sum_over_workers(centred.square().sum(dim=(0, 2, 3))) / total
        self._track(mean.detach(), var.detach(), total)
        normal = centred * (var + self.eps).rsqrt().view(1, -1, 1, 1)
        if self.affine:
            normal = normal * self.weight.view(1, -1, 1, 1) + self.bias.view(1, -1, 1, 1)
        return normal.to(x_BCHW.dtype)

    @torch.no_grad()
    def _track(self, mean: Tensor, var: Tensor, count: Tensor) -> None:
        """Update the running statistics as torch does: unbiased variance, exponential average."""
        if self.running_mean is None or self.running_var is None:
            return
        assert self.num_batches_tracked is not None
        self.num_batches_tracked.add_(1)
        share = self.momentum if self.momentum is not None else 1 / float(self.num_batches_tracked)
        self.running_mean.lerp_(mean, share)
        self.running_var.lerp_(var * count / (count - 1), share)


def synchronise_batch_norms(module: nn.Module) -> None:
    """Convert every BatchNorm2d in `module` in place; names and values are unchanged."""
    for child in module.modules():
        if type(child) is nn.BatchNorm2d:
            # The subclass adds no attributes, only another forward.
            child.__class__ = SyncedBatchNorm2d


def _sum_over_workers(values: Tensor) -> Tensor:
    total: Tensor = _SumOverWorkers.apply(values)
    return total


class _SumOverWorkers(torch.autograd.Function):
    """Sum over workers; the gradient is the sum of the workers' gradients."""

    @staticmethod
    def forward(ctx: object, values: Tensor) -> Tensor:
        total = values.clone()
        dist.all_reduce(total)
        return total

    @staticmethod
    def backward(ctx: object, gradient: Tensor) -> Tensor:
        total = gradient.clone()
        dist.all_reduce(total)
        return total
