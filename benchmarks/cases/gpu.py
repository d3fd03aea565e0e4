"""What fills a GPU."""

from __future__ import annotations

from dataclasses import replace

from benchmarks.cases.attention import attention
from benchmarks.cases.conv2d import conv2d
from benchmarks.cases.memory_bound import batch_norm, cross_entropy, layer_norm, max_pool2d
from benchmarks.cases.recurrent import recurrent

GPU = tuple(
    replace(case, family="gpu", name=f"{case.family} {case.name}")
    for case in (
        conv2d(64, 56, 64, 64, 3),
        conv2d(64, 28, 128, 128, 3),
        conv2d(64, 14, 256, 256, 3),
        conv2d(64, 7, 512, 512, 3),
        conv2d(64, 224, 3, 64, 7, 2),
        conv2d(64, 28, 256, 512, 1),
        attention(8, 12, 1024, 64),
        attention(4, 16, 2048, 128, causal=True),
        recurrent("lstm", 64, 128, 512, 512),
        batch_norm(128, 56, 64),
        layer_norm(131072, 768),
        max_pool2d(128, 112, 64),
        cross_entropy(16384, 4096),
    )
)
