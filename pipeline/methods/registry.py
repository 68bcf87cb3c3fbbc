"""Names of the methods, and the options each takes.

A method made for one run: options that depend on the dataset are completed and checked.
"""

from __future__ import annotations

import inspect
import types
import typing
from collections.abc import Mapping, Sequence
from typing import Any

from pipeline import storage
from pipeline.config.train import TrainConfig, parse_options
from pipeline.methods.assume_negative import (
    AssumeNegative,
    ExpectedPositive,
    FullLabel,
    IgnoreUnobserved,
    LabelSmoothing,
    WeakAssumeNegative,
)
from pipeline.methods.asymmetric import AsymmetricLoss, PartialAsymmetricLoss
from pipeline.methods.cnn_rnn import CnnRnn
from pipeline.methods.curriculum import Curriculum
from pipeline.methods.entropy import EntropyMaximization, PseudoLabeling
from pipeline.methods.imcl import Imcl
from pipeline.methods.large_loss import (
    LargeLossCorrectPermanent,
    LargeLossCorrectTemporary,
    LargeLossReject,
)
from pipeline.methods.parts import class_prior
from pipeline.methods.protocol import Method
from pipeline.methods.role import Role, RoleLinearInit
from sharding.errors import InputError

_METHODS: dict[str, type] = {
    "full": FullLabel,
    "an": AssumeNegative,
    "ls": LabelSmoothing,
    "wan": WeakAssumeNegative,
    "epr": ExpectedPositive,
    "iu": IgnoreUnobserved,
    "asl": AsymmetricLoss,
    "role": Role,
    "role-li": RoleLinearInit,
    "em": EntropyMaximization,
    "em-apl": PseudoLabeling,
    "ll-r": LargeLossReject,
    "ll-ct": LargeLossCorrectTemporary,
    "ll-cp": LargeLossCorrectPermanent,
    "p-asl": PartialAsymmetricLoss,
    "curriculum": Curriculum,
    "imcl": Imcl,
    "cnn-rnn": CnnRnn,
}


def names() -> list[str]:
    """Every method, in the order of the documentation."""
    return list(_METHODS)


def options_of(name: str) -> dict[str, Any]:
    """Options of a method with their defaults (`inspect.Parameter.empty` where none).

    Raises:
        InputError: unknown method; the message lists the known ones.
    """
    if name not in _METHODS:
        raise InputError(f"no method {name!r}", fix=f"choose one of {', '.join(_METHODS)}")
    parameters = inspect.signature(_METHODS[name]).parameters.values()
    return {p.name: p.default for p in parameters if p.kind is p.KEYWORD_ONLY}


def check_options(name: str, options: Mapping[str, Any]) -> None:
    """Refuse options that a method does not have, misses, or that are of another type.

    Raises:
        InputError: naming the method's options.
    """
    valid = options_of(name)
    unknown = sorted(set(options) - set(valid))
    listed = ", ".join(option for option in valid if option != "group") or "none"
    if unknown:
        raise InputError(
            f"method {name!r} has no option {', '.join(unknown)}", fix=f"its options: {listed}"
        )
    missing = [o for o, d in valid.items() if d is inspect.Parameter.empty and o not in options]
    if missing:
        raise InputError(
            f"method {name!r} needs {', '.join(missing)}", fix=f"its options: {listed}"
        )
    method: Any = _METHODS[name]
    hints = typing.get_type_hints(method.__init__)
    for option, value in options.items():
        _check_type(name, option, value, hints[option])


def create(name: str, num_classes: int, **options: Any) -> Method:
    """Make a method by name.

    Args:
        name: one of `names`.
        num_classes: K.
        options: named as in the papers; ``group`` is the process group of the global batch.

    Raises:
        InputError: unknown method or option (the message lists the valid ones), or a value out
            of range.
    """
    check_options(name, options)
    method: Any = _METHODS[name]
    return method(num_classes, **options)


def _alternatives(hint: Any) -> tuple[Any, ...]:
    return typing.get_args(hint) if isinstance(hint, types.UnionType) else (hint,)


def _check_type(name: str, option: str, value: Any, hint: Any) -> None:
    kinds = [typing.get_origin(k) or k for k in _alternatives(hint)]
    if float in kinds:
        kinds.append(int)
    is_number_flag = isinstance(value, bool) and bool not in kinds
    if is_number_flag or not isinstance(value, tuple(kinds)):
        wanted = " or ".join(kind.__name__ for kind in kinds if kind is not type(None))
        raise InputError(
            f"option {option} of method {name!r} is {value!r}", fix=f"pass a value of type {wanted}"
        )


def options_for(config: TrainConfig) -> dict[str, Any]:
    """The options given, and those that follow from the rest of the configuration.

    Raises:
        InputError: unknown method, or an option that is not name=value.
    """
    options = parse_options(config.method_options)
    if "total_epochs" in options_of(config.method):
        options.setdefault("total_epochs", config.epochs)
    return options


def complete_options(config: TrainConfig) -> dict[str, Any]:
    """Every option of the configured method as it will be used, defaults included.

    Raises:
        InputError: an option that the method does not have, or one that it misses.
    """
    check_options(config.method, parse_options(config.method_options))
    given = options_for(config)
    known = options_of(config.method)
    return {name: given.get(name, default) for name, default in known.items() if name != "group"}


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
        options["prior"] = class_prior.find(options["prior"], mids)
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
