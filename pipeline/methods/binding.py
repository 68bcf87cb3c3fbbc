"""A method made for one run: options that depend on the dataset are completed and checked."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from pipeline import storage
from pipeline.config import TrainConfig, parse_options
from pipeline.methods import prior
from pipeline.methods.protocol import Method
from pipeline.methods.registry import create, options_of
from sharding.errors import InputError


def options_for(config: TrainConfig) -> dict[str, Any]:
    """The options given, and those that follow from the rest of the configuration.

    Raises:
        InputError: unknown method, or an option that is not name=value.
    """
    options = parse_options(config.method_options)
    if "total_epochs" in options_of(config.method):
        options.setdefault("total_epochs", config.epochs)
    return options


def create_for(config: TrainConfig, *, mids: Sequence[str], num_images: int) -> Method:
    """The configured method, for a dataset.

    What a method needs to know of the dataset is added to its options: the number of training
    images, so that what does not fit is refused before the first step, and the priors of a file or
    checkpoint by MID.

    Args:
        config: names method, options and model.
        mids: of the classes, in their order.
        num_images: of the training split.

    Raises:
        InputError: unknown option, a value out of range, a matrix that does not fit the memory, a
            prior of other classes, or a method that the configured model cannot serve.
    """
    options = options_for(config)
    known = options_of(config.method)
    if "num_images" in known:
        options.setdefault("num_images", num_images)
    if isinstance(options.get("prior"), str) and "prior" in known:
        options["prior"] = prior.find(options["prior"], mids)
    _check_model(config, options)
    return create(config.method, len(mids), **options)


def with_absolute_paths(options: tuple[str, ...]) -> tuple[str, ...]:
    """The options with every path made absolute: workers run in directories of their own."""
    name = "prior="
    return tuple(
        name + storage.absolute(option.removeprefix(name)) if option.startswith(name) else option
        for option in options
    )


def _check_model(config: TrainConfig, options: dict[str, Any]) -> None:
    if options.get("strategy") == "uncertainty" and not config.model.dropout:
        raise InputError(
            "strategy 'uncertainty' compares passes with dropout, and the model has none",
            fix="pass --dropout 0.5, or another strategy",
        )
    if config.method == "imcl" and config.optimizer.micro_batches > 1:
        raise InputError(
            "method 'imcl' needs the features of the whole batch, which micro-batches do not keep",
            fix="pass --micro-batches 1 and more workers, or another method",
        )
