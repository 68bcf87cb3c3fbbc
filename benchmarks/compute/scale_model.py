"""Compute the speed of training on many GPUs from rates of one GPU, one link and one core.

Nothing is measured. The defaults are published peaks of links, and rates that the other benchmarks
measured on one machine or one GPU; pass those of your hardware.

    python -m benchmarks.compute.scale_model
    python -m benchmarks.compute.scale_model --node-gbit 100 --image-gflop 50 --decode-ms 0.44
"""

from __future__ import annotations

from dataclasses import dataclass

import tyro


@dataclass(frozen=True, kw_only=True)
class Rates:
    """Of the hardware and of the work; the defaults: H200, ResNet-101 at 448 px, 5,000 classes."""

    gpus: tuple[int, ...] = (8, 16, 32, 64)
    gpus_per_node: int = 8
    images: int = 1_743_042
    """Of an epoch: training images of Open Images V3 that have a label."""
    batch: int = 64
    """Images per GPU and step."""
    image_gflop: float = 199
    """Forward and backward of one image: three times 62.4 + 4.0 (at 224 px: 50)."""
    gpu_tflops: float = 110
    """Of a ResNet-50 on an H200 on bf16, not compiled (benchmarks/compute/gpu.py): a ninth of its
    peak, because batch norms and additions, which are most of the time, move memory."""
    parameters: float = 52.7e6
    """ResNet-101 without its classifier, and a head of 2048 x 5000."""
    gpu_link_gbytes: float = 350
    """Of a GPU within its node, one way."""
    node_gbit: float = 3200
    """Network of a node, one way."""
    selection_ms: float = 0.4
    """Four sums of at most 16 KiB that a step waits for: 0.1 ms each."""
    decode_ms: float = 1.9
    """CPU time per image of the loader, where the GPU does not decode (benchmarks/data/loader)."""
    image_bytes: float = 85_000
    """Of an image in the shards: shorter side 512."""


@dataclass(frozen=True, kw_only=True)
class Step:
    """Times in ms; rates per second."""

    compute_ms: float
    reduce_ms: float
    step_ms: float
    images_per_second: float
    epoch_seconds: float
    efficiency: float
    cores_per_gpu: float
    node_read_mbytes: float


def step(rates: Rates, gpus: int) -> Step:
    """Compute one step on ``gpus`` GPUs of whole nodes.

    The gradients (fp32) are summed around two rings, within the nodes and between them; DDP hides
    that behind the backward pass, two thirds of the computation, and a step waits for
    the rest.
    """
    inside, nodes = min(gpus, rates.gpus_per_node), max(1, gpus // rates.gpus_per_node)
    megabytes = rates.parameters * 4 / 1e6
    compute_ms = rates.batch * rates.image_gflop / rates.gpu_tflops
    reduce_ms = _ring(inside) * megabytes / rates.gpu_link_gbytes
    reduce_ms += _ring(nodes) * megabytes / (rates.node_gbit / 8)
    step_ms = compute_ms + max(0.0, reduce_ms - compute_ms * 2 / 3) + rates.selection_ms
    per_second = gpus * rates.batch / step_ms * 1000
    return Step(
        compute_ms=compute_ms,
        reduce_ms=reduce_ms,
        step_ms=step_ms,
        images_per_second=per_second,
        epoch_seconds=rates.images / per_second,
        efficiency=compute_ms / step_ms,
        cores_per_gpu=per_second / gpus * rates.decode_ms / 1000,
        node_read_mbytes=per_second / nodes * rates.image_bytes / 1e6,
    )


def _ring(members: int) -> float:
    """Count how often each member of a ring sends the whole sum."""
    return 2 * (members - 1) / members


def main(rates: Rates) -> None:
    """Print the table."""
    print("| GPUs | compute | all-reduce | step | images/s | epoch | of linear | cores per GPU |")
    print("|---|---|---|---|---|---|---|---|")
    for gpus in rates.gpus:
        result = step(rates, gpus)
        print(
            f"| {gpus} | {result.compute_ms:.1f} ms | {result.reduce_ms:.1f} ms "
            f"| {result.step_ms:.1f} ms | {result.images_per_second:,.0f} "
            f"| {result.epoch_seconds:.0f} s | {result.efficiency:.0%} "
            f"| {result.cores_per_gpu:.1f} |"
        )
    first = step(rates, rates.gpus[0])
    print(f"\nA node reads {first.node_read_mbytes:,.0f} MB/s of shards.")


if __name__ == "__main__":
    main(tyro.cli(Rates, description=__doc__))
