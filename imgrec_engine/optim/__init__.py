"""Optimisers with fused update kernels, gradient clipping, loss scaling and learning-rate schedules."""

from imgrec_engine.optim.adam import Adam, AdamW
from imgrec_engine.optim.averaging import ExponentialMovingAverage
from imgrec_engine.optim.clip import clip_grad_norm_, clip_grad_value_
from imgrec_engine.optim.grad_scaler import GradScaler
from imgrec_engine.optim.optimizer import Optimizer
from imgrec_engine.optim.schedulers import CosineAnnealingLR, LinearWarmup, OneCycleLR, Scheduler, StepLR
from imgrec_engine.optim.sgd import SGD

__all__ = [
    "SGD",
    "Adam",
    "AdamW",
    "CosineAnnealingLR",
    "ExponentialMovingAverage",
    "GradScaler",
    "LinearWarmup",
    "OneCycleLR",
    "Optimizer",
    "Scheduler",
    "StepLR",
    "clip_grad_norm_",
    "clip_grad_value_",
]
