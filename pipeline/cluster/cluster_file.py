"""Check a cluster file before `ray up` starts machines that cost money and cannot work."""

from __future__ import annotations

import importlib.metadata
import importlib.util
import json
import re
from collections import Counter
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

from sharding.errors import InputError

DRIVER_FLOOR = 580
"""Oldest branch of NVIDIA's driver that runs the CUDA 13 of requirements.lock."""

_PLACEHOLDER = re.compile(r"\b(?:SET_[A-Z_]+|[A-Z]+_ID)\b")
_IMAGE = re.compile(r"ami-[0-9a-f]{8,17}|resolve:ssm:(?!.*arm64)/?[\w./-]+")
_GPU_FAMILY = re.compile(r"(?:g\d|gr\d|p\d)")
_ARM_FAMILY = re.compile(r"[a-z]+\d+[a-z]*g[a-z]*\b|p6e-")
_TOKEN = "~/.ray/auth_token"
# Ray's own defaults, for a head that sets no others.
_PORTS = {"ray-client-server-port": 10001, "dashboard-port": 8265}
_TEXT = {"type": "string"}
_TYPE = {"properties": {"node_config": {"properties": {"InstanceType": _TEXT, "ImageId": _TEXT}}}}
_AWS = {"if": {"properties": {"type": {"const": "aws"}}}, "then": {"required": ["region"]}}
_OURS = {
    "properties": {
        "head_node_type": _TEXT,
        "available_node_types": {"type": "object", "additionalProperties": _TYPE},
        "provider": {"type": "object", "properties": {"worker_ips": {"items": _TEXT}}, **_AWS},
        "docker": {"properties": {"run_options": {"items": _TEXT}}},
        "file_mounts": {"additionalProperties": _TEXT},
    },
    "if": {"properties": {"provider": {"properties": {"type": {"const": "aws"}}}}},
    "then": {"required": ["available_node_types", "head_node_type"]},
}
"""What Ray's own schema leaves open, and the checks rely on."""
Config = Mapping[str, Any]


class Finding(NamedTuple):
    """What is wrong at a place of a cluster file, and what to do about it."""

    place: str
    problem: str
    fix: str

    def __str__(self) -> str:
        return f"{self.place}: {self.problem}. Fix: {self.fix}"


def read(file: Path) -> dict[str, Any]:
    """Read a cluster file.

    Raises:
        InputError: there is none, or it is no mapping in YAML.
    """
    import yaml

    try:
        config = yaml.safe_load(file.read_text(encoding="utf-8"))
    except OSError as error:
        raise InputError(f"no cluster file ({error.strerror})", file=file) from None
    except (ValueError, yaml.YAMLError) as error:
        raise InputError(f"not YAML ({' '.join(str(error).split())})", file=file) from None
    if not isinstance(config, dict):
        raise InputError("not a cluster file", file=file, fix="begin with ray_cluster.yaml")
    return config


def check(config: Config, directory: Path) -> list[Finding]:
    """List all that is wrong with a cluster file.

    Args:
        config: content of the file.
        directory: that `ray up` is called in, which relative mounts start from.
    """
    if findings := [*dict.fromkeys(_schema(config))]:
        return findings  # the other checks rely on it
    checks = [_placeholders, _types, _head, _ports, _authentication, _container, _store]
    checks += [_images, _profiles, _spot, _driver, _shared] if _is(config, "aws") else [_addresses]
    findings = [finding for each in checks for finding in each(config)]
    return [*findings, *_mounts(config, directory)]


def describe(config: Config) -> str:
    """Say in a line what a cluster file starts."""
    if not _is(config, "aws"):
        head, workers = (config["provider"].get(key) for key in ("head_ip", "worker_ips"))
        return f"head {head}, workers {', '.join(workers or [])}"
    machines = {n: kind["node_config"]["InstanceType"] for n, kind in _workers(config).items()}
    kinds = ", ".join(map(" ".join, machines.items()))
    return f"aws {config['provider']['region']}, at most {config.get('max_workers')} of: {kinds}"


def _schema(config: Config) -> Iterator[Finding]:
    """Apply Ray's own schema and ours; Ray is not imported, which would take a second."""
    from jsonschema import Draft7Validator

    (ray,) = importlib.util.find_spec("ray").submodule_search_locations  # type: ignore[union-attr,misc]
    schema = json.loads(Path(ray, "autoscaler/ray-schema.json").read_text())
    validators = [Draft7Validator(each) for each in (schema, _OURS)]
    errors = [error for each in validators for error in each.iter_errors(dict(config))]
    for error in errors:
        place = ".".join(map(str, error.absolute_path)) or "the file"
        yield Finding(place, error.message, "correct it, as in ray_cluster.yaml")
    if errors:
        return
    if config.get("head_node_type") not in config.get("available_node_types", {None: 0}):
        yield Finding("head_node_type", "names no node type", "name one of available_node_types")
    if (kind := config["provider"]["type"]) not in ("aws", "local"):
        yield Finding("provider.type", f"{kind!r} is not known here", "choose aws or local")


def _is(config: Config, kind: str) -> bool:
    return bool(config["provider"]["type"] == kind)


def _workers(config: Config) -> dict[str, Any]:
    """The node types that are not the head's."""
    types = config.get("available_node_types", {})
    return {name: kind for name, kind in types.items() if name != config["head_node_type"]}


def _strings(value: Any, place: str = "") -> Iterator[tuple[str, str]]:
    """Every text of the file with its place."""
    if isinstance(value, Mapping):
        for key, each in value.items():
            yield from _strings(each, f"{place}.{key}" if place else str(key))
    elif isinstance(value, list):
        for index, each in enumerate(value):
            yield from _strings(each, f"{place}[{index}]")
    elif isinstance(value, str):
        yield place, value


def _placeholders(config: Config) -> Iterator[Finding]:
    places: dict[str, str] = {}
    for place, text in _strings(config):
        for word in _PLACEHOLDER.findall(text):
            places.setdefault(word, place)  # where it is set, before where that is referred to
    for word, place in places.items():
        yield Finding(place, f"{word} is not set", f"put your own value in the place of {word}")


def _types(config: Config) -> Iterator[Finding]:
    limit, workers = config.get("max_workers", 0), _workers(config)
    least = sum(kind.get("min_workers", 0) for kind in workers.values())
    if least > limit:
        fix = f"set max_workers to {least} or more"
        yield Finding("max_workers", f"{limit} is less than all min_workers, {least}", fix)
    for name, kind in workers.items():
        if kind.get("min_workers", 0) > (most := kind.get("max_workers", limit)):
            problem = f"min_workers is more than max_workers, {most}"
            yield Finding(f"available_node_types.{name}", problem, "raise the latter")
    if workers and not any(kind.get("max_workers", limit) for kind in workers.values()):
        yield Finding("available_node_types", "no worker may start", "set their max_workers")


def _head(config: Config) -> Iterator[Finding]:
    start = _command(config, "head_start_ray_commands")
    needed = {
        "--num-cpus=0": "the head would train",
        "--autoscaling-config=~/ray_bootstrap_config.yaml": "nothing starts workers",
        "RAY_JOB_STOP_WAIT_TIME_S=300": "a stopped job has 3 s to save",
    }
    if _is(config, "local"):
        needed["RAY_enable_autoscaler_v2=0"] = "one worker would never be started"
    for words, problem in needed.items():
        if words not in start:
            where = "add it to ray start" if words.startswith("-") else "export it before ray start"
            yield Finding("head_start_ray_commands", f"no {words}: {problem}", where)
    if config.get("file_mounts_sync_continuously"):
        fix = "leave it out; every job ships the head's code"
        yield Finding("file_mounts_sync_continuously", "it restarts workers under a job", fix)


def _command(config: Config, key: str) -> str:
    """The command of a list that starts Ray."""
    return next((each for each in config.get(key, []) if "ray start" in each), "")


def _ports(config: Config) -> Iterator[Finding]:
    head, worker = (_command(config, f"{kind}_start_ray_commands") for kind in ("head", "worker"))
    ports = _PORTS | {name: int(port) for name, port in re.findall(r"--([a-z-]*port)=(\d+)", head)}
    for name, port in ports.items():
        if not 1024 <= port <= 65535:
            place = f"head_start_ray_commands --{name}"
            yield Finding(place, f"port {port} cannot be used", "choose one from 1024 to 65535")
    for port, count in Counter(ports.values()).items():
        if count > 1:
            names = " and ".join(f"--{name}" for name, each in ports.items() if each == port)
            problem = f"{names} are both {port}"
            yield Finding("head_start_ray_commands", problem, "give each a port of its own")
    joined = re.search(r"--address=\S*?:(\d+)", worker)
    if not joined or int(joined[1]) != ports.get("port"):
        fix = f"write --address=$RAY_HEAD_IP:{ports.get('port', 6379)}, the head's --port"
        yield Finding("worker_start_ray_commands", "workers join at another port", fix)


def _authentication(config: Config) -> Iterator[Finding]:
    if not any("RAY_AUTH_MODE=token" in each for each in config.get("setup_commands", [])):
        fix = 'add: echo "export RAY_AUTH_MODE=token" >> ~/.bashrc'
        yield Finding("setup_commands", "whoever reaches the head may run code", fix)
    elif _TOKEN not in config.get("file_mounts", {}):
        yield Finding("file_mounts", "no node gets the token", f'add "{_TOKEN}": {_TOKEN}')


def _container(config: Config) -> Iterator[Finding]:
    image, ours = config.get("docker", {}).get("image", ""), importlib.metadata.version("ray")
    tag = re.fullmatch(r"rayproject/ray:(\d+\.\d+\.\d+)(?:-py(\d)(\d+))?.*", image)
    if tag and tag[1] != ours:
        fix = f"use the image of {ours}, as in requirements.lock"
        yield Finding("docker.image", f"Ray {tag[1]} is not the lock's", fix)
    if tag and tag[2] and (int(tag[2]), int(tag[3])) not in ((3, 11), (3, 12), (3, 13)):
        yield Finding("docker.image", f"Python {tag[2]}.{tag[3]} is not supported", "use py311")


def _store(config: Config) -> Iterator[Finding]:
    commands = "\n".join(text for _, text in _strings(config.get("head_setup_commands", [])))
    uris = re.findall(r"MLFLOW_TRACKING_URI=([^\s\"']+)", commands)
    if not uris:
        fix = "export MLFLOW_TRACKING_URI in ~/.bashrc"
        yield Finding("head_setup_commands", "every directory would get an MLflow store", fix)
    for uri in uris if _is(config, "aws") else []:
        if uri.startswith("sqlite:") and not uri.startswith("sqlite:////data/"):
            fix = "use sqlite:////data/mlflow.db, or the URL of a server"
            yield Finding("head_setup_commands", "the MLflow store ends with the head", fix)
        elif not uri.startswith(("sqlite:", "http://", "https://")):
            fix = "use the URL of a server, or install the database's package in setup_commands"
            yield Finding("head_setup_commands", "the lock has no driver for that database", fix)


def _images(config: Config) -> Iterator[Finding]:
    for name, kind in config["available_node_types"].items():
        place = f"available_node_types.{name}.node_config"
        machine = kind["node_config"].get("InstanceType", "")
        if not re.fullmatch(r"[a-z][a-z0-9-]*\.[a-z0-9-]+", machine):
            fix = "such as g6e.12xlarge"
            yield Finding(f"{place}.InstanceType", f"{machine!r} is no type", f"name one, {fix}")
        elif _ARM_FAMILY.match(machine):
            fix = "choose an x86-64 type, such as g6e.12xlarge or m7i.2xlarge"
            yield Finding(f"{place}.InstanceType", f"{machine} is arm64, the lock is not", fix)
        elif name != config["head_node_type"] and not _GPU_FAMILY.match(machine):
            fix = "choose a type with GPUs, such as g6e.12xlarge"
            yield Finding(f"{place}.InstanceType", f"{machine} has no GPU", fix)
        image = kind["node_config"].get("ImageId", "")
        if image in ("", "latest_dlami"):
            fix = "set the image of ray_cluster.yaml"
            yield Finding(f"{place}.ImageId", "Ray's default image is of CUDA 11", fix)
        elif not _IMAGE.fullmatch(image):
            fix = "write ami-..., or resolve:ssm: and the name of a parameter for x86_64"
            yield Finding(f"{place}.ImageId", f"{image!r} is no image", fix)


def _driver(config: Config) -> Iterator[Finding]:
    """A check on the machine is the only one that knows the driver of an image by number."""
    checks = [each for each in config.get("worker_setup_commands", []) if "nvidia-smi" in each]
    floors = [int(floor) for each in checks for floor in re.findall(r"-ge (\d+)", each)]
    if not floors:
        fix = "take worker_setup_commands of ray_cluster.yaml"
        yield Finding("worker_setup_commands", "nobody checks the driver of the image", fix)
    elif min(floors) < DRIVER_FLOOR:
        problem = f"driver {min(floors)} is too old for CUDA 13"
        yield Finding("worker_setup_commands", problem, f"ask for {DRIVER_FLOOR}")


def _profiles(config: Config) -> Iterator[Finding]:
    for name, kind in config["available_node_types"].items():
        profile = kind["node_config"].get("IamInstanceProfile")
        if not isinstance(profile, Mapping) or not {"Name", "Arn"} & set(profile):
            place = f"available_node_types.{name}.node_config.IamInstanceProfile"
            fix = "set { Name: PROFILE }; Ray gives one to the head alone"
            yield Finding(place, "no credentials for a bucket", fix)


def _spot(config: Config) -> Iterator[Finding]:
    machines = [kind["node_config"] for kind in _workers(config).values()]
    if machines and all("InstanceMarketOptions" in machine for machine in machines):
        fix = "add a node type without InstanceMarketOptions, as on-demand of ray_cluster.yaml"
        yield Finding("available_node_types", "nothing starts where spot is refused", fix)


def _shared(config: Config) -> Iterator[Finding]:
    """The file system must be mounted on the machine and reach into the container."""
    commands = config.get("initialization_commands", [])
    targets = re.findall(r"\bmount -t .*?:\S* (/\S+?);?(?: |$)", "\n".join(commands))
    if not targets:
        fix = "mount one in initialization_commands, as ray_cluster.yaml does"
        yield Finding("initialization_commands", "nodes share no file system", fix)
    options = " ".join(config.get("docker", {}).get("run_options", []))
    for target in targets if "docker" in config else []:
        if not re.search(rf"--volume[= ]{re.escape(target)}:", options):
            fix = f"add --volume={target}:{target}"
            yield Finding("docker.run_options", f"containers do not see {target}", fix)


def _addresses(config: Config) -> Iterator[Finding]:
    provider = config["provider"]
    addresses = [provider.get("head_ip"), *provider.get("worker_ips", [])]
    if not all(isinstance(address, str) and address for address in addresses):
        yield Finding("provider", "an address is missing", "set head_ip and worker_ips")
    for address, count in Counter(addresses).items():
        if count > 1:
            yield Finding("provider", f"{address} is two machines", "name each machine once")


def _mounts(config: Config, directory: Path) -> Iterator[Finding]:
    mounts = {f"file_mounts {to}": each for to, each in config.get("file_mounts", {}).items()}
    key = config.get("auth", {}).get("ssh_private_key")
    for place, source in {**mounts, "auth.ssh_private_key": key}.items():
        if source and not (directory / Path(source).expanduser()).exists():
            fix = "ray get-auth-token --generate" if source == _TOKEN else "correct it, or make it"
            yield Finding(place, f"no {source} on this machine", fix)
    if "." in mounts.values():
        yield Finding("file_mounts", "the whole repository", "mount pipeline and sharding only")
