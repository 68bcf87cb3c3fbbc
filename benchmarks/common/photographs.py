"""Make photographs to measure with: crops of scikit-learn's two sample pictures, with grain."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from PIL import Image

QUALITY = 90


def photographs(folder: Path, count: int) -> list[str]:
    """Write `count` JPEGs of 1024 x 768 and 768 x 1024, about 270 KB each; return their ids."""
    from sklearn.datasets import load_sample_images

    rng = np.random.default_rng(0)
    sources = [Image.fromarray(picture) for picture in load_sample_images().images]
    ids = []
    for number in range(count):
        size = (1024, 768) if rng.random() < 0.7 else (768, 1024)
        source = sources[number % len(sources)]
        width = int(rng.uniform(0.5, 1) * source.width * min(1, size[0] / size[1]))
        height = min(source.height, width * size[1] // size[0])
        left = int(rng.integers(0, source.width - width + 1))
        top = int(rng.integers(0, source.height - height + 1))
        crop = source.crop((left, top, left + width, top + height))
        image = np.asarray(crop.resize(size, Image.Resampling.LANCZOS), np.float32)
        image = image * rng.uniform(0.8, 1.1) + rng.normal(0, 6.5, (*image.shape[:2], 1))
        ids.append(f"{rng.integers(0, 2**63):016x}")
        Image.fromarray(np.clip(image, 0, 255).astype(np.uint8)).save(
            folder / f"{ids[-1]}.jpg", quality=QUALITY
        )
    return sorted(ids)
