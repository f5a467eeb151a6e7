"""Batch statistics over all workers, on CPU as on GPU."""

import torch
import torch.distributed as dist
from torch import Tensor, nn


class SyncedBatchNorm2d(nn.BatchNorm2d):
    """`nn.BatchNorm2d` whose training statistics are those of all workers' samples together.

    torch's SyncBatchNorm refuses CPU tensors; this one needs an all-reduce of two vectors per
    layer and direction, nothing else. Statistics are exact for any share of samples per worker, so
    two workers with 4 samples each and one with 8 give the same output.
    """

    def forward(self, x_BCHW: Tensor) -> Tensor:
        """Normalise by the statistics of all workers, in evaluation by the running ones."""
        alone = not dist.is_initialized() or dist.get_world_size() == 1
        if not self.training or alone:
            return super().forward(x_BCHW)
        channels = x_BCHW.shape[1]
        x = x_BCHW.float()
        count = x.new_tensor([x.numel() / channels])
        # The mean comes first and alone: E[x²] - E[x]² would cancel in fp32.
        totals = _SumOverWorkers.apply(torch.cat([x.sum(dim=(0, 2, 3)), count]))
        total = totals[-1].detach()
        mean = totals[:-1] / total
        centred = x - mean.view(1, -1, 1, 1)
        var = _SumOverWorkers.apply(centred.square().sum(dim=(0, 2, 3))) / total
        self._track(mean.detach(), var.detach(), total)
        normal = centred * (var + self.eps).rsqrt().view(1, -1, 1, 1)
        if self.affine:
            normal = normal * self.weight.view(1, -1, 1, 1) + self.bias.view(1, -1, 1, 1)
        return normal.to(x_BCHW.dtype)

    @torch.no_grad()
    def _track(self, mean: Tensor, var: Tensor, count: Tensor) -> None:
        """Move the running statistics as torch does: unbiased variance, exponential average."""
        if self.running_mean is None or self.running_var is None:
            return
        assert self.num_batches_tracked is not None
        self.num_batches_tracked.add_(1)
        share = self.momentum if self.momentum is not None else 1 / float(self.num_batches_tracked)
        self.running_mean.lerp_(mean, share)
        self.running_var.lerp_(var * count / (count - 1), share)


def synchronise_batch_norms(module: nn.Module) -> None:
    """Turn every BatchNorm2d inside `module` into a synced one, in place; names and values stay."""
    for child in module.modules():
        if type(child) is nn.BatchNorm2d:
            # Same attributes, another forward: nothing else refers to the class.
            child.__class__ = SyncedBatchNorm2d


class _SumOverWorkers(torch.autograd.Function):
    """Sum over workers, whose gradient is the sum of the gradients."""

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
