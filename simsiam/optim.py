"""Parameter groups, the learning rate at each step, and LARS (Sec. 3, 4.2, 4.3, App. A)."""

from __future__ import annotations

import functools
import math
from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch import Tensor

from simsiam.config import Config
from simsiam.model import SimSiam


def cosine(progress: float) -> float:
    """Half a cosine from 1 at progress 0 to 0 at progress 1."""
    return 0.5 * (1 + math.cos(math.pi * progress))


def lr(config: Config, group: str, epoch: float) -> float:
    """The learning rate of a parameter group, `encoder` or `predictor`, `epoch` epochs into training.

    The encoder warms up linearly over `warmup_epochs`, then follows a cosine over what is left. The predictor is
    never warmed up; it follows the cosine or stays constant. The author says so of SimSiam (the released code's issue
    11); of BYOL's predictor, and of one added to SimCLR or SwAV, it is ours.
    """
    if group == "predictor":
        return config.lr * (cosine(epoch / config.epochs) if config.predictor_lr == "cosine" else 1.0)
    if epoch < config.warmup_epochs:
        return config.lr * epoch / config.warmup_epochs
    return config.lr * cosine((epoch - config.warmup_epochs) / (config.epochs - config.warmup_epochs))


def optimizer(model: SimSiam, config: Config, others: Iterable[Tensor] = ()) -> torch.optim.Optimizer:
    """SGD or LARS over f and what is trained of h. Weight decay is on every parameter, BN included (App. A).

    Args:
        others: what a method trains besides, with f's learning rate.
    """
    groups: list[dict[str, Any]] = [
        {"name": "encoder", "params": [*model.backbone.parameters(), *model.projector.parameters(), *others]}
    ]
    trained = [p for p in model.predictor.parameters() if p.requires_grad]
    if trained:
        groups.append({"name": "predictor", "params": trained})
    return sgd_or_lars(config.optimizer)(
        groups, lr=config.lr, momentum=config.momentum, weight_decay=config.weight_decay
    )


def sgd_or_lars(name: str) -> Callable[..., torch.optim.Optimizer]:
    """`sgd` or `lars`, each with one kernel for many tensors."""
    return LARS if name == "lars" else functools.partial(torch.optim.SGD, fused=True)


def place_lr(optimizer: torch.optim.Optimizer, device: torch.device) -> None:
    """On a GPU the learning rates are tensors: a step that is recorded there reads them where they lie."""
    for group in optimizer.param_groups:
        value = float(group["lr"])
        group["lr"] = torch.tensor(value, device=device) if device.type == "cuda" else value


def set_lr(optimizer: torch.optim.Optimizer, config: Config, epoch: float) -> None:
    for group in optimizer.param_groups:
        value = lr(config, group["name"], epoch)
        if isinstance(group["lr"], Tensor):
            group["lr"].fill_(value)
        else:
            group["lr"] = value


class LARS(torch.optim.Optimizer):
    """SGD with momentum whose step is scaled, tensor by tensor, by trust |w| / (|g| + wd |w|) (You et al. 2017).

    A tensor whose weight or gradient is zero takes the plain step, so a bias that starts at 0 can move.
    """

    def __init__(
        self,
        params: Iterable[Any],
        lr: float,
        momentum: float = 0.9,
        weight_decay: float = 0.0,
        trust: float = 1e-3,
    ) -> None:
        super().__init__(params, dict(lr=lr, momentum=momentum, weight_decay=weight_decay, trust=trust))

    @torch.no_grad()
    def step(self, closure: Any = None) -> None:  # type: ignore[override]
        for group in self.param_groups:
            params = [p for p in group["params"] if p.grad is not None]
            grads = [p.grad for p in params]
            for p in params:
                if "momentum" not in self.state[p]:
                    self.state[p]["momentum"] = torch.zeros_like(p)
            momenta = [self.state[p]["momentum"] for p in params]
            w, g = (torch.stack(torch._foreach_norm(each)) for each in (params, grads))
            ratio = group["trust"] * w / (g + group["weight_decay"] * w)
            scale = torch.where((w > 0) & (g > 0), ratio, 1.0)
            steps = torch._foreach_add(grads, params, alpha=group["weight_decay"])
            torch._foreach_mul_(steps, list(scale.unbind()))
            torch._foreach_mul_(momenta, group["momentum"])
            torch._foreach_add_(momenta, steps)
            torch._foreach_sub_(params, torch._foreach_mul(momenta, group["lr"]))
