"""Statistics that several processes share: synchronized batch normalization on any backend.

Each process reduces its part of the batch to a count, a mean and a sum of squared deviations; the parts are
merged as in Chan, Golub & LeVeque (1983). Everything that travels goes through `torch.distributed`, on CPU
workers (gloo) as on GPUs (nccl).
"""

from __future__ import annotations

import os
import sys
import tempfile
import time
import traceback
from collections.abc import Callable, Sequence
from datetime import timedelta
from multiprocessing.connection import Connection, wait
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.distributed as dist
from torch import Tensor
from torch.autograd.function import once_differentiable

from .core import at_least_float32, check_tensor, denormalize, normalize
from .functional import gamma_beta, update_running

__all__ = ["merge_moments", "run_workers", "sync_batch_norm"]

# On Linux new processes are forks of a server that has imported torch, runs nothing else and ends with this
# process. Elsewhere each imports torch for itself (seconds), since not all libraries survive a fork.
_START = "forkserver" if sys.platform == "linux" else "spawn"


def merge_moments(counts: Tensor, means: Tensor, m2s: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    r"""Count, mean and sum of squared deviations of a whole, from those of its parts.

    >>> a, b = torch.tensor([1.0, 3.0]), torch.tensor([10.0, 20.0, 30.0])
    >>> counts, means = torch.tensor([2, 3]), torch.stack([a.mean(), b.mean()])
    >>> m2s = torch.stack([(p - p.mean()).square().sum() for p in (a, b)])
    >>> count, mean, m2 = merge_moments(counts, means, m2s)
    >>> whole = torch.cat([a, b])
    >>> bool(torch.isclose(mean, whole.mean()) and torch.isclose(m2 / count, whole.var(correction=0)))
    True

    .. math:: n = \sum_i n_i, \quad \mu = \tfrac1n \sum_i n_i \mu_i, \quad
              M = \sum_i \left( M_i + n_i (\mu_i - \mu)^2 \right)

    Chan, Golub & LeVeque 1983, equations (2.1), for any number of parts. No large numbers are subtracted from
    one another, as they are in Σx² − (Σx)²/n.

    Args:
        counts: (P,), numbers of values in the parts; parts may be empty.
        means, m2s: (P, …), mean and sum of squared deviations of each part (anything finite where it is
            empty).

    Returns:
        ``(count, mean, m2)`` of the whole, in the dtype of ``means`` (float64 for integers); computed in
        float64.

    Raises:
        ValueError: if the shapes do not fit, a count is negative, or all parts are empty.
    """
    for name, tensor in {"counts": counts, "means": means, "m2s": m2s}.items():
        check_tensor(name, tensor)
    if counts.ndim != 1 or means.shape != m2s.shape or means.shape[:1] != counts.shape:
        raise ValueError(
            "counts, means and m2s must have shapes (P,), (P, …) and (P, …), "
            f"got {tuple(counts.shape)}, {tuple(means.shape)} and {tuple(m2s.shape)}"
        )
    if bool((counts < 0).any()):
        raise ValueError(f"counts must not be negative, got {counts.tolist()}")
    if not means.is_floating_point():
        means, m2s = means.double(), m2s.double()
    count = counts.sum()
    if not count > 0:
        raise ValueError(f"counts {counts.tolist()} are those of an empty whole, which has no mean")
    n = counts.double().view(-1, *[1] * (means.ndim - 1))
    mean = (n * means).sum(0) / count
    m2 = (m2s + n * (means - mean).square()).sum(0)
    return count, mean.to(means.dtype), m2.to(m2s.dtype)


def sync_batch_norm(
    input: Tensor,
    running_mean: Tensor | None,
    running_var: Tensor | None,
    weight: Tensor | None = None,
    bias: Tensor | None = None,
    momentum: float = 0.1,
    eps: float = 1e-5,
    group: Any = None,
) -> Tensor:
    """`normtut.functional.batch_norm` in training, over the batches of all processes of a group together.

    >>> def half(rank):
    ...     batch = torch.tensor([[1.0], [3.0], [5.0], [7.0]])
    ...     return sync_batch_norm(batch.chunk(2)[rank], None, None).flatten()
    >>> run_workers(half)
    [tensor([-1.3416, -0.4472]), tensor([0.4472, 1.3416])]

    Every process of the group must call it, also one whose part of the batch is empty. The gradients are
    those of one batch norm on the concatenated batch. Peng et al. 2018 (MegDet), section 3.3, describes the
    layer; their Σx² is replaced by `merge_moments`.

    Args:
        input: this process's part, (N, C, *); N may differ between processes, and be 0.
        running_mean, running_var, weight, bias, momentum, eps: as for `torch.nn.functional.batch_norm`.
        group: the process group; the default group if None.

    A second derivative is refused: it would have to communicate once more.

    Raises:
        ValueError: on every process, if they disagree about the channels or the dtype, if it is not a
            floating type, or if together they have fewer than two values per channel.
        RuntimeError: if another process died or did not take part within the group's timeout.
    """
    check_tensor("input", input)
    counts = _agree(input, group)
    x = at_least_float32(input)
    z, mean, var, count = _SyncNormalize.apply(x, counts, eps, group)
    given = {"running_mean": running_mean, "running_var": running_var, "weight": weight, "bias": bias}
    for name, tensor in given.items():
        if tensor is None:
            continue
        check_tensor(name, tensor)
        if tensor.shape != mean.shape:
            raise ValueError(
                f"{name} must have one value for each of the {len(mean)} channels of input, "
                f"got shape {tuple(tensor.shape)} for input of shape {tuple(input.shape)}"
            )
    update_running((running_mean, running_var), mean, var, count, momentum)
    gamma, beta = gamma_beta((-1, *[1] * (x.ndim - 2)), weight, bias)
    return denormalize(z, beta, gamma).to(input.dtype)


class _SyncNormalize(torch.autograd.Function):
    """z = (x − μ)/σ with the statistics of all processes, and its gradient, which needs those of all, too."""

    @staticmethod
    def forward(
        ctx: Any, x: Tensor, counts: Tensor, eps: float, group: Any
    ) -> tuple[Tensor, Tensor, Tensor, int]:
        axes = (0, *range(2, x.ndim))
        if x.numel():
            var, mean = torch.var_mean(x, axes, correction=0)
        else:
            var = mean = x.new_zeros(x.shape[1])
        mine = torch.stack([mean, var * (x.numel() // x.shape[1])])
        parts = torch.stack(_all_gather(mine, group))
        n, mean, m2 = merge_moments(counts.to(x.device), parts[:, 0], parts[:, 1])
        count = int(counts.sum())
        shape = (-1, *[1] * (x.ndim - 2))
        std = (m2 / n + eps).sqrt().view(shape)
        z = normalize(x, mean.view(shape), std)
        ctx.save_for_backward(z, std)
        ctx.axes, ctx.count, ctx.group = axes, count, group
        ctx.mark_non_differentiable(mean, m2)
        return z, mean, m2 / n, count

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor, *_: Any) -> tuple[Tensor | None, None, None, None]:
        # μ and σ depend on every pixel of every process: dx = (g − mean(g) − z · mean(g z)) / σ,
        # with means over the whole batch (Ioffe & Szegedy 2015, section 3).
        z, std = ctx.saved_tensors
        sums = torch.stack([grad.sum(ctx.axes), (grad * z).sum(ctx.axes)])
        _collective("backward", lambda: dist.all_reduce(sums, group=ctx.group))
        mean_g, mean_gz = (sums / ctx.count).view(2, *std.shape)
        return (grad - mean_g - z * mean_gz) / std, None, None, None


_DTYPES = (torch.float32, torch.float64, torch.float16, torch.bfloat16)


def _agree(x: Tensor, group: Any) -> Tensor:
    """The number of values per channel on each process; raises on all of them if their inputs do not fit."""
    channels = x.shape[1]
    dtype = _DTYPES.index(x.dtype) if x.dtype in _DTYPES else len(_DTYPES)
    mine = torch.tensor([channels, dtype, x.numel() // max(channels, 1)], device=x.device)
    every = torch.stack(_all_gather(mine, group)).cpu()
    dtypes = [(*map(str, _DTYPES), "no floating type")[i] for i in every[:, 1].tolist()]
    for what, values in (("channels", every[:, 0].tolist()), ("dtype", dtypes)):
        if len(set(values)) > 1:
            raise ValueError(f"the processes disagree about the {what} of their input: {values}, by rank")
    if dtype == len(_DTYPES):
        raise ValueError(f"input must be floating point, got {x.dtype} of shape {tuple(x.shape)}")
    if every[:, 2].sum() < 2:
        raise ValueError(
            "sync_batch_norm needs more than 1 value per channel over all processes when training, got "
            f"{every[:, 2].tolist()}, by rank"
        )
    return every[:, 2]


def _all_gather(x: Tensor, group: Any) -> list[Tensor]:
    every = [torch.empty_like(x) for _ in range(dist.get_world_size(group))]
    _collective("forward", lambda: dist.all_gather(every, x, group=group))
    return every


def _collective(when: str, call: Callable[[], Any]) -> None:
    try:
        call()
    except RuntimeError as error:
        raise RuntimeError(
            f"sync_batch_norm ({when}) on rank {dist.get_rank()} of {dist.get_world_size()}: another process "
            "died, or did not reach this layer within the timeout. Every process must run the same layers in "
            "the same mode (train or eval), also for an empty batch"
        ) from error


# --- processes from a notebook ------------------------------------------------------------------------------

# loky's executor also takes functions by value and notices workers that die. But it says neither which of
# them died nor what the others said about it, which is what chapter 9 is about; each of its workers imports
# torch anew (with two workers 9 s a call, against 0.4 s here from the second call on); and what gloo prints
# would be the notebook's output. The tests hold this function to all three.


def run_workers(
    function: Callable[..., Any],
    args: Sequence[Any] = (),
    *,
    world_size: int = 2,
    timeout: float = 120.0,
) -> list[Any]:
    """Call ``function(rank, *args)`` in new processes that form one gloo group; return their results by rank.

    >>> def total(rank):
    ...     x = torch.tensor(rank + 1.0)
    ...     torch.distributed.all_reduce(x)
    ...     return x.item()
    >>> run_workers(total, world_size=2)
    [3.0, 3.0]

    It works from a script, a notebook, Colab and under pytest: the function travels by value (cloudpickle),
    so it may be defined in a cell. The processes talk over the loopback interface, and all have ended when it
    returns. In a script, call it under ``if __name__ == "__main__":``, as for all of `multiprocessing`.

    Args:
        function: what each process runs, with its rank first; its result must be picklable.
        args: further arguments, the same for all.
        world_size: number of processes.
        timeout: seconds, for each collective operation and for everything together.

    Raises:
        ValueError: if ``world_size`` is not positive.
        RuntimeError: if a process raised or died: with what each of them said.
        TimeoutError: if they are not done in time.
    """
    if world_size < 1:
        raise ValueError(f"world_size must be at least 1, got {world_size}")
    import cloudpickle

    context: Any = torch.multiprocessing.get_context(_START)
    context.set_forkserver_preload([__name__])
    task = cloudpickle.dumps((function, tuple(args), dict(os.environ)))
    deadline = time.monotonic() + timeout
    processes: list[Any] = []
    pipes: list[Any] = []
    with tempfile.TemporaryDirectory() as folder:
        try:
            for rank in range(world_size):
                receiver, sender = context.Pipe(duplex=False)
                process = context.Process(
                    target=_work, args=(rank, world_size, folder, timeout, task, sender), daemon=True
                )
                process.start()
                sender.close()  # our copy: so the receiver sees when the process has ended
                processes.append(process)
                pipes.append(receiver)
            outcomes = _collect(pipes, deadline)
        finally:
            for process in processes:
                process.join(max(0.0, min(5.0, deadline - time.monotonic())))
                if process.is_alive():
                    process.kill()
                    process.join()
        logs = [_tail(Path(folder) / f"{rank}.log") for rank in range(world_size)]
    late = [rank for rank in range(world_size) if rank not in outcomes]
    if late:
        raise TimeoutError(f"ranks {late} of {world_size} were not done after {timeout:g} s{''.join(logs)}")
    failures = [f"rank {rank}: {outcomes[rank][1]}{logs[rank]}" for rank in outcomes if not outcomes[rank][0]]
    if failures:
        raise RuntimeError(
            f"{len(failures)} of {world_size} processes failed\n" + "\n".join(sorted(failures))
        )
    return [outcomes[rank][1] for rank in range(world_size)]


def _collect(pipes: list[Connection], deadline: float) -> dict[int, tuple[bool, Any]]:
    """(succeeded, result or message) of each rank that answered or died before the deadline."""
    import cloudpickle

    outcomes: dict[int, tuple[bool, Any]] = {}
    while len(outcomes) < len(pipes):
        open_pipes = [p for rank, p in enumerate(pipes) if rank not in outcomes]
        ready = wait(open_pipes, max(0.0, deadline - time.monotonic()))
        if not ready:
            break
        for pipe in ready:
            rank = pipes.index(pipe)  # type: ignore[arg-type]
            try:
                outcomes[rank] = cloudpickle.loads(pipe.recv_bytes())  # type: ignore[union-attr]
            except EOFError:
                outcomes[rank] = (False, "died without a word (killed, or out of memory?)")
    return outcomes


def _work(rank: int, world_size: int, folder: str, timeout: float, task: bytes, pipe: Connection) -> None:
    """The life of one process of `run_workers`."""
    import cloudpickle

    # gloo and torch write to the terminal's file descriptors; a notebook would store that as output.
    with open(os.path.join(folder, f"{rank}.log"), "wb", buffering=0) as log:
        for descriptor in (1, 2):
            os.dup2(log.fileno(), descriptor)
    torch.set_num_threads(1)
    np.random.seed()  # noqa: NPY002 (forks of one server would all draw the same numbers)
    try:
        function, args, environ = cloudpickle.loads(task)
        os.environ.update(environ)  # the server still has that of its start
        os.environ.setdefault("GLOO_SOCKET_IFNAME", "lo0" if sys.platform == "darwin" else "lo")
        dist.init_process_group(
            "gloo",
            store=dist.FileStore(  # type: ignore[attr-defined]
                os.path.join(folder, "store"), world_size
            ),
            rank=rank,
            world_size=world_size,
            timeout=timedelta(seconds=timeout),
        )
        dist.barrier()  # one that was done before the others had connected to it would make them fail
        outcome: tuple[bool, Any] = (True, function(rank, *args))
        message = cloudpickle.dumps(outcome)
    except BaseException:
        message = cloudpickle.dumps((False, traceback.format_exc()))
    pipe.send_bytes(message)
    pipe.close()
    if dist.is_initialized():
        dist.destroy_process_group()


def _tail(log: Path, lines: int = 20) -> str:
    text = log.read_text(errors="replace").splitlines()[-lines:] if log.exists() else []
    return "".join(f"\n    | {line}" for line in text)
