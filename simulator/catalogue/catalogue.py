"""Finds models and devices by name or by the path of a file, and estimates profiles of them."""

from __future__ import annotations

import difflib
import json
from collections.abc import Iterable, Mapping
from functools import cache
from importlib.resources import files
from pathlib import Path
from typing import Any

from simulator.catalogue.device_file import checked, is_device_file, read_device
from simulator.cost.model import Profile
from simulator.cost.roofline import HOST_STEP_S, KERNEL_S, Mode, roofline
from simulator.limits import KvDtype
from simulator.strict_yaml import load_mapping
from traces.errors import InputError
from traces.files import check_is_no_device

SUFFIX = ".json"
QUANTISED = {"hf_quant_config.json": "modelopt", "quantize_config.json": "gptq", "quant_config.json": "awq"}
"""Where checkpoints say beside config.json that their weights are quantised, and by what method."""


def list_models() -> list[str]:
    """Names of all models in the catalogue, sorted."""
    return sorted(_models())


def list_devices() -> list[str]:
    """Names of all devices in the catalogue, sorted."""
    return sorted(_devices())


def load_model(name_or_path: str | Path, kv_cache_dtype: KvDtype | None = None) -> Mapping[str, Any]:
    """Fields of a model's `config.json`: by catalogue name or Hugging Face id in any case, or by the file's path.

    What a file beside it says of quantised weights is put into its `quantization_config`, unless it has one; so is
    `kv_cache_dtype`, if given, into the field of that name.
    Raises InputError for an unknown name (with the nearest ones) and for a file that cannot be read.
    """
    return _found_model(name_or_path, kv_cache_dtype)[1]


def load_device(name: str) -> Mapping[str, Any]:
    """Figures of a device: by catalogue name, or the name that its maker or CUDA gives it, in any case; or by a file's path.

    Raises InputError for an unknown name, with the nearest ones and what they do, and for a file with a fault.
    """
    return _found_device(name)[1]


def estimate(
    model: str | Path,
    device: str,
    tp: int = 1,
    mode: Mode = "max",
    overhead_s: float = HOST_STEP_S,
    kv_cache_dtype: KvDtype | None = None,
    kernel_s: float = KERNEL_S,
    ranks: int = 1,
) -> Profile:
    """Roofline profile of a model on `tp` GPUs of a device, both as `load_model` and `load_device` find them.

    An estimate from data sheets, with the least time of kernels and that of the host, and named so; `mode`, `overhead_s`,
    `kernel_s` and `ranks` are those of `simulator.cost.roofline`.
    Raises InputError for what cannot be found or estimated.
    """
    (model_name, config), (device_name, figures) = _found_model(model, kv_cache_dtype), _found_device(device)
    gpus = f"{ranks} ranks of " * (ranks != 1) + f"{tp} x " * (tp != 1)
    name = f"{model_name} on {gpus}{device_name} (roofline estimate)"
    try:
        return roofline(config, figures, mode, overhead_s, name, tp, kernel_s, ranks)
    except InputError as error:
        raise InputError(f"{model_name} on {device_name}: {error}") from None


def _found_model(name_or_path: str | Path, kv_cache_dtype: KvDtype | None) -> tuple[str, Mapping[str, Any]]:
    """Catalogue name, or path, and fields of a model."""
    name, config = _model(name_or_path)
    return name, config if kv_cache_dtype is None else {**config, "kv_cache_dtype": kv_cache_dtype}


def _model(name_or_path: str | Path) -> tuple[str, Mapping[str, Any]]:
    text = str(name_or_path)
    if not isinstance(name_or_path, Path):
        models = _models()
        for name, config in models.items():
            if _plain(text) in map(_plain, (name, config["_name_or_path"])):
                return name, config
        if not (text.endswith(SUFFIX) or "/" in text or "\\" in text):
            raise _unknown("model", text, models, "a name from the catalogue, or the path of a model's config.json")
    return text, _read_config(Path(text))


def _found_device(name: str) -> tuple[str, Mapping[str, Any]]:
    """Catalogue name and figures of a device, or the name in its file."""
    if is_device_file(name):
        device = read_device(Path(name))
        return device["name"], device
    devices = _devices()
    for key, device in devices.items():
        if _plain(name) in map(_plain, (key, device["name"], device["cuda_name"], *device["also"])):
            return key, device
    near = ", ".join(f"{one} ({_strength(devices[one])})" for one in _nearest(name, devices))
    raise InputError(
        f"device {name!r} is unknown; names like it: {near}. Give one of them only if it is the same GPU, or the path of "
        "a YAML file with this one's figures (docs/formats.md)"
    )


def _strength(device: Mapping[str, Any]) -> str:
    return f"{device['peak_flops_per_s'] / 1e12:.0f} TFLOPS, {device['bandwidth_bytes_per_s'] / 1e12:.2g} TB/s"


@cache
def _models() -> dict[str, Mapping[str, Any]]:
    folder = files("simulator.catalogue") / "models"
    shapes = (file for file in folder.iterdir() if file.name.endswith(SUFFIX))
    return {file.name.removesuffix(SUFFIX): json.loads(file.read_text("utf-8")) for file in shapes}


@cache
def _devices() -> dict[str, dict[str, Any]]:
    text = (files("simulator.catalogue") / "devices.yaml").read_text("utf-8")
    return {key: checked(device) for key, device in load_mapping(text, "h100:").items()}


def _read_config(path: Path) -> Mapping[str, Any]:
    """Fields of a config, with those of a file beside it that says how its weights are quantised."""
    config = _read_json(path)
    for name, method in QUANTISED.items():
        beside = path.with_name(name)
        if not config.get("quantization_config") and beside.exists():
            config = {**config, "quantization_config": {"quant_method": method, **_read_json(beside)}}
    return config


def _read_json(path: Path) -> dict[str, Any]:
    check_is_no_device(path)
    try:
        config = json.loads(path.read_text("utf-8"))
    except FileNotFoundError:
        raise InputError(f"{path}: no such file: give the path of a model's config.json or a catalogue name") from None
    except IsADirectoryError:
        raise InputError(f"{path} is a directory: give the path of the config.json in it") from None
    except json.JSONDecodeError as error:
        raise InputError(f"{path}: line {error.lineno}: not JSON ({error.msg}): give a model's config.json") from None
    except (OSError, ValueError, RecursionError) as error:
        reason = " ".join(str(error).split())[:80]
        raise InputError(f"{path} cannot be read ({reason}): give the path of a model's config.json") from None
    if not isinstance(config, dict):
        raise InputError(f"{path} holds a {type(config).__name__}, not an object: give a model's config.json")
    return config


def _plain(name: str) -> str:
    """Letters and digits of a name in lower case, so that `RTX 4090` is `rtx-4090`."""
    return "".join(character for character in name.casefold() if character.isalnum())


def _unknown(what: str, name: str, known: Iterable[str], fix: str) -> InputError:
    return InputError(f"{what} {name!r} is unknown: did you mean {', '.join(_nearest(name, known))}? Give {fix}")


def _nearest(name: str, known: Iterable[str]) -> list[str]:
    """Names that begin so, else those most like it, else all."""
    names = sorted(known)
    begun = [one for one in names if name and one.startswith(name.lower())]
    return begun or difflib.get_close_matches(name.lower(), names, n=3, cutoff=0.4) or names
