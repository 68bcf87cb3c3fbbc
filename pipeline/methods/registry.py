"""Create training methods by name, with options checked and completed for a dataset."""

from __future__ import annotations

import inspect
from collections.abc import Mapping, Sequence
from types import UnionType
from typing import Any, Literal, cast, get_args, get_origin, get_type_hints

from pipeline.config.sections import MethodName
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
from pipeline.methods.entropy import (
    EntropyMaximization,
    MachinePseudoLabels,
    PseudoLabeling,
)
from pipeline.methods.imcl import Imcl
from pipeline.methods.large_loss import (
    LargeLossCorrectPermanent,
    LargeLossCorrectTemporary,
    LargeLossReject,
)
from pipeline.methods.parts import class_prior
from pipeline.methods.protocol import Method, needs_confidences
from pipeline.methods.robust import GeneralizedRobust, Hill, SelfPacedCorrection
from pipeline.methods.role import Role, RoleLinearInit
from sharding.errors import InputError, unknown

_METHODS: dict[MethodName, type] = {
    "full": FullLabel,
    "an": AssumeNegative,
    "ls": LabelSmoothing,
    "wan": WeakAssumeNegative,
    "epr": ExpectedPositive,
    "iu": IgnoreUnobserved,
    "asl": AsymmetricLoss,
    "hill": Hill,
    "splc": SelfPacedCorrection,
    "role": Role,
    "role-li": RoleLinearInit,
    "em": EntropyMaximization,
    "em-apl": PseudoLabeling,
    "vlpl": MachinePseudoLabels,
    "gr": GeneralizedRobust,
    "ll-r": LargeLossReject,
    "ll-ct": LargeLossCorrectTemporary,
    "ll-cp": LargeLossCorrectPermanent,
    "p-asl": PartialAsymmetricLoss,
    "curriculum": Curriculum,
    "imcl": Imcl,
    "cnn-rnn": CnnRnn,
}


def names() -> list[str]:
    """List every method, in the order of the documentation."""
    return list(_METHODS)


def create_for(config: TrainConfig, *, mids: Sequence[str], num_images: int) -> Method:
    """Create the configured method for a dataset.

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
    method = create(config.method, len(mids), **options)
    if method.uses_confidences and config.confidences is None:
        raise needs_confidences(config.method)
    return method


def create(name: str, num_classes: int, **options: Any) -> Method:
    """Create a method by name.

    Args:
        name: one of `names`.
        num_classes: K.
        options: named as in the papers.

    Raises:
        InputError: unknown method or option (the message lists the valid ones), or a value out
            of range.
    """
    check_options(name, options)
    return class_of(name)(num_classes, **options)


def options_for(config: TrainConfig) -> dict[str, Any]:
    """Parse the options given and add those that follow from the rest of the configuration.

    Raises:
        InputError: unknown method, or an option that is not name=value.
    """
    options = parse_options(config.method_options)
    for option, value in {"total_epochs": config.epochs, "seed": config.seed}.items():
        if option in options_of(config.method):
            options.setdefault(option, value)
    return options


def complete_options(config: TrainConfig) -> dict[str, Any]:
    """List every option of the configured method as it will be used, defaults included.

    Raises:
        InputError: an option that the method does not have, or one that it misses.
    """
    given, known = options_for(config), options_of(config.method)
    check_options(config.method, given)
    return {name: given.get(name, default) for name, default in known.items()}


def options_of(name: str) -> dict[str, Any]:
    """List the options of a method with their defaults (`inspect.Parameter.empty` where none).

    Raises:
        InputError: unknown method; the message lists the known ones.
    """
    parameters = inspect.signature(class_of(name)).parameters.values()
    return {p.name: p.default for p in parameters if p.kind is p.KEYWORD_ONLY}


def check_options(name: str, options: Mapping[str, Any]) -> None:
    """Refuse options that a method does not have, misses, or that are of another type.

    Raises:
        InputError: naming the method's options.
    """
    valid = options_of(name)
    fix = f"its options: {', '.join(valid) or 'none'}"
    unknown = sorted(set(options) - set(valid))
    if unknown:
        raise InputError(f"method {name!r} has no option {', '.join(unknown)}", fix=fix)
    missing = [o for o, d in valid.items() if d is inspect.Parameter.empty and o not in options]
    if missing:
        flags = " ".join(f"{option}=NUMBER" for option in missing)
        fix = f"pass --method-options {flags}; {fix}"
        raise InputError(f"method {name!r} needs {', '.join(missing)}", fix=fix)
    hints = get_type_hints(class_of(name).__init__)
    for option, value in options.items():
        _check_value(f"option {option} of method {name!r} is {value!r}", value, hints[option])


def class_of(name: str) -> Any:
    """Return a method's class.

    Raises:
        InputError: unknown method; the message lists the known ones.
    """
    if name not in _METHODS:
        raise unknown("method", name, _METHODS)
    return _METHODS[cast(MethodName, name)]


def _check_value(message: str, value: Any, hint: Any) -> None:
    """Refuse a value of another type than its hint, or none of its literals."""
    if get_origin(hint) is Literal:
        if value not in get_args(hint):
            raise InputError(message, fix=f"choose one of {', '.join(get_args(hint))}")
        return
    alternatives = get_args(hint) if isinstance(hint, UnionType) else (hint,)
    kinds = [get_origin(kind) or kind for kind in alternatives]
    if float in kinds:
        kinds.append(int)
    flag_for_number = isinstance(value, bool) and bool not in kinds
    if flag_for_number or not isinstance(value, tuple(kinds)):
        wanted = " or ".join(kind.__name__ for kind in kinds if kind is not type(None))
        raise InputError(message, fix=f"pass a value of type {wanted}")


def _check_model(config: TrainConfig, options: dict[str, Any]) -> None:
    if options.get("strategy") == "uncertainty" and not config.model.dropout:
        raise InputError(
            "strategy 'uncertainty' compares passes with dropout, and the model has none",
            fix="pass --dropout 0.5, or another strategy",
        )
    if config.method in ("imcl", "cnn-rnn") and config.model.head != "cam":
        raise InputError(
            f"method {config.method!r} works on a CAM head, not on {config.model.head}",
            fix="pass --head cam, or another method",
        )
    if config.method == "imcl" and config.optimizer.micro_batches > 1:
        raise InputError(
            "method 'imcl' needs the features of the whole batch, which micro-batches do not keep",
            fix="pass --micro-batches 1 and more workers, or another method",
        )
