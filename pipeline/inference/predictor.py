"""Load a trained model, predict labels of images, and compute their activation maps.

import pipeline

model = pipeline.load("runs/demo")
for prediction in model.predict(["street.jpg"]):
    for label in prediction.top(5):
        print(label.name, label.mid, label.score)
model.cam(["street.jpg"], ["Car", "Tree"]).save("maps")
"""

from __future__ import annotations

import difflib
import html
import itertools
import math
import time
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
import torch

from pipeline.inference import locate, pixels
from pipeline.inference.beam import attach
from pipeline.inference.cams import Cams
from pipeline.inference.pixels import ImageLike
from pipeline.models import checkpoint, operating_points
from pipeline.models.cam_head import boostlu
from pipeline.models.cam_net import CamNet
from pipeline.models.operating_points import OperatingPoints
from sharding.errors import InputError
from sharding.log import count

TOP_K = 5
"""Labels of a served model's answer, unless the request says otherwise."""
OWN_THRESHOLDS = -1.0
"""The parameter ``threshold`` of a request that names none."""


@dataclass(frozen=True, kw_only=True)
class Label:
    """A class predicted in an image.

    Attributes:
        index: of the class.
        mid: its MID in Open Images.
        name: its display name.
        score: logit.
        temperature: what calibrates the class's probability; 1 where nothing does.
    """

    index: int
    mid: str
    name: str
    score: float
    temperature: float = 1.0

    @property
    def probability(self) -> float:
        """Sigmoid of score / temperature; classes are independent, so they do not sum to 1."""
        return float(1 / (1 + np.exp(-np.float64(self.score) / self.temperature)))


@dataclass(frozen=True, kw_only=True, repr=False)
class Prediction:
    """The scores of one image.

    Attributes:
        scores_K: fp32 logits, in the class list's order.
        mids, names: the class list.
        points: thresholds and temperatures of the classes, where the model has them.
    """

    scores_K: npt.NDArray[np.float32]
    mids: Sequence[str]
    names: Sequence[str]
    points: OperatingPoints | None = None

    def top(self, k: int = TOP_K) -> list[Label]:
        """Return the ``k`` highest-scored classes, best first; ties by index."""
        best = np.argsort(-self.scores_K, kind="stable")[:k]
        return [self._label(int(index)) for index in best]

    def above(self, score: float | None = None) -> list[Label]:
        """Return every class with a higher score, best first.

        By default each class that reaches its own threshold, where the model has them; else 0,
        which is probability one half.
        """
        if score is None and self.points is not None:
            return self.present()
        return self.top(int((self.scores_K > (score or 0.0)).sum()))

    def present(self, probability: float | None = None, k: int | None = None) -> list[Label]:
        """Return every class of at least this probability, best first; at most ``k``.

        By default each that reaches its own threshold; all where the model has none.
        """
        scores_K, points = self.scores_K.astype(np.float64), self.points
        is_present_K = np.ones(len(scores_K), np.bool_)
        if probability is not None:
            scaled_K = scores_K if points is None else scores_K / points.temperatures_K
            is_present_K = 1 / (1 + np.exp(-scaled_K)) >= probability
        elif points is not None:
            is_present_K = scores_K >= points.thresholds_K
        best = np.argsort(-self.scores_K, kind="stable")
        return [self._label(int(index)) for index in best[is_present_K[best]][:k]]

    def __repr__(self) -> str:
        labels = ", ".join(f"{label.name} {label.probability:.2f}" for label in self.top())
        return f"Prediction({labels})"

    def _repr_html_(self) -> str:
        shown = self.top()
        rows = (
            f"<tr><td>{html.escape(label.name)}</td><td>{html.escape(label.mid)}</td>"
            f"<td>{label.score:.2f}</td><td>{label.probability:.3f}</td></tr>"
            for label in shown
        )
        heads = "".join(f"<th>{head}</th>" for head in ("class", "MID", "score", "probability"))
        caption = f"<caption>top {len(shown)} of {len(self.mids):,} classes</caption>"
        return f"<table>{caption}<tr>{heads}</tr>{''.join(rows)}</table>"

    def _label(self, index: int) -> Label:
        return Label(
            index=index,
            mid=self.mids[index],
            name=self.names[index],
            score=float(self.scores_K[index]),
            temperature=1.0 if self.points is None else self.points.temperatures[index],
        )


class Predictor:
    """Predict labels of images with a trained model; made by `load`.

    Args:
        model: in evaluation mode.
        meta: its checkpoint's.
        device: where to compute.
        batch_size: images per forward pass.
        threads: images decoded at a time.
        points: the checkpoint's operating points, if it has any.
    """

    def __init__(
        self,
        model: CamNet,
        meta: checkpoint.Meta,
        *,
        device: str | torch.device = "cpu",
        batch_size: int = 32,
        threads: int = 4,
        points: OperatingPoints | None = None,
    ) -> None:
        self.device = torch.device(device)
        self.model, self.meta = model.to(self.device).eval(), meta
        self.batch_size, self.threads, self.points = batch_size, threads, points

    def __repr__(self) -> str:
        config = self.meta.train_config
        return (
            f"Predictor({config.model.backbone}, {count(len(self.meta.mids), 'class')}, "
            f"{self.image_size} px, trained with {config.method}, on {self.device})"
        )

    @property
    def image_size(self) -> int:
        """Side in pixels of the network's input."""
        return self.meta.train_config.data.image_size

    def predict(self, images: Iterable[ImageLike]) -> list[Prediction]:
        """Predict each image: paths, URLs, encoded bytes, Pillow images, uint8 arrays.

        Raises:
            InputError: an image cannot be read; names it.
        """
        return [
            prediction
            for images_BHWC in self._decoded(images)
            for prediction in self.predict_pixels(images_BHWC)
        ]

    def predict_each(
        self, images: Sequence[ImageLike | InputError], deadline: float = math.inf
    ) -> list[Prediction | InputError]:
        """Predict each image, or say what is wrong with it.

        Args:
            images: as of `predict`; an error stands for an image that is none.
            deadline: of `time.monotonic`; images not reached then are errors.
        """

        def attempt(image: ImageLike | InputError) -> npt.NDArray[np.uint8] | InputError:
            if isinstance(image, InputError):
                return image
            if time.monotonic() > deadline:
                return InputError("not reached in the time of a request", fix="send fewer images")
            return pixels.attempt(image, self.image_size)

        found: list[Prediction | InputError] = []
        with ThreadPoolExecutor(self.threads) as pool:
            for first in range(0, len(images), self.batch_size):
                read = list(pool.map(attempt, images[first : first + self.batch_size]))
                good = [image for image in read if isinstance(image, np.ndarray)]
                predictions = iter(self.predict_pixels(np.stack(good)) if good else ())
                found += [e if isinstance(e, InputError) else next(predictions) for e in read]
        return found

    def predict_pixels(self, images_BHWC: npt.NDArray[np.uint8]) -> list[Prediction]:
        """Predict uint8 RGB pixels (B, S, S, 3) of the network's size in one forward pass."""
        return [
            Prediction(
                scores_K=scores_K, mids=self.meta.mids, names=self.meta.names, points=self.points
            )
            for scores_K in self.scores(images_BHWC)
        ]

    @torch.inference_mode()
    def scores(self, images_BHWC: npt.NDArray[np.uint8]) -> npt.NDArray[np.float32]:
        """Compute fp32 logits (B, K) of uint8 RGB pixels (B, S, S, 3) of the network's size."""
        images = torch.from_numpy(np.ascontiguousarray(images_BHWC)).to(self.device)
        return self.model(images).float().cpu().numpy()

    @torch.inference_mode()
    def cam(self, images: Iterable[ImageLike], classes: Sequence[int | str]) -> Cams:
        """Compute maps of every image for every class (index, MID or name), raw and boosted.

        Raises:
            InputError: an image cannot be read, or the model knows no such class.
        """
        indices = [self.class_index(name) for name in classes]
        pixels_seen, maps = [], []
        for images_BHWC in self._decoded(images):
            features = self.model.features(torch.from_numpy(images_BHWC).to(self.device))
            maps.append(self.model.head.cam(features)[:, indices].float().cpu())
            pixels_seen.append(images_BHWC)
        if not maps:
            raise InputError("no images", fix="pass at least one")
        raw_NPHW = torch.cat(maps)
        alpha = self.model.head.alpha_infer
        return Cams(
            images_NHWC=np.concatenate(pixels_seen),
            mids=[self.meta.mids[index] for index in indices],
            names=[self.meta.names[index] for index in indices],
            raw_NPHW=raw_NPHW.numpy(),
            boosted_NPHW=boostlu(raw_NPHW, alpha).numpy(),
            alpha=alpha,
        )

    def class_index(self, name: int | str) -> int:
        """Look up the index of a class given as index, MID or name.

        Raises:
            InputError: there is none; names classes that are spelled alike.
        """
        if isinstance(name, int):
            if 0 <= name < len(self.meta.mids):
                return name
            raise InputError(f"no class {name}", fix=f"pass 0 to {len(self.meta.mids) - 1}")
        folded = [known.casefold() for known in self.meta.names]
        if name in self.meta.mids:
            return list(self.meta.mids).index(name)
        if name.casefold() in folded:
            return folded.index(name.casefold())
        close = difflib.get_close_matches(name.casefold(), folded, n=3, cutoff=0.4)
        likely = ", ".join(self.meta.names[folded.index(c)] for c in close) or self.meta.names[0]
        raise InputError(f"the model knows no class {name!r}", fix=f"pass for example {likely}")

    def _decoded(self, images: Iterable[ImageLike]) -> Iterator[npt.NDArray[np.uint8]]:
        """Decode batches of pixels; within a batch, images in parallel."""
        if isinstance(images, (str, bytes)):
            raise InputError("one image where several are expected", fix="pass a list of images")
        waiting = iter(images)
        with ThreadPoolExecutor(self.threads) as pool:
            while batch := list(itertools.islice(waiting, self.batch_size)):
                sizes = itertools.repeat(self.image_size)
                yield np.stack(list(pool.map(pixels.square, batch, sizes)))


def load(uri: str | Path, *, device: str | None = None, beam: int = 0, **options: int) -> Predictor:
    """Load the model at ``uri``.

    Args:
        uri: a run directory (its best checkpoint is taken), a checkpoint directory, or MLflow's
            ``runs:/<run id>``, ``models:/<name>@<alias>``, ``models:/<name>/<version>``.
        device: by default the first GPU, else the CPU.
        beam: of a cnn-rnn run, label sequences kept per image; 0 scores the image alone.
        options: ``batch_size`` and ``threads`` of `Predictor`.

    Raises:
        InputError: there is no model, or it has no sequences to search.
    """
    directory = locate.checkpoint_directory(str(uri))
    model, meta = checkpoint.load_model(directory)
    model = attach(model, meta, directory, beam)
    chosen = device or ("cuda" if torch.cuda.is_available() else "cpu")
    # Chosen on the logits of the image alone.
    points = None if beam else operating_points.read(directory, meta.classes_sha256)
    return Predictor(model, meta, device=chosen, points=points, **options)
