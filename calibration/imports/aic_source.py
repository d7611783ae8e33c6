"""Where aiconfigurator keeps its measurements: systems, engines and versions, in a folder or in the installed package.

`<system>.yaml` holds the figures of a device and names its folder, `data_dir`; below it lie
`<table>/<engine>/<version>/<name>_perf.parquet`, in milliseconds. A version that lacks a table takes that of the version
which its `reuse.yaml` names, or else of the newest one before it, as aiconfigurator does itself.
"""

from __future__ import annotations

import importlib.metadata
import importlib.util
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq

from simulator.cost.sources import NotMeasuredError
from simulator.strict_yaml import load_mapping
from traces.errors import InputError

PACKAGE, DISTRIBUTION = "aiconfigurator_core", "aiconfigurator-core"
INSTALL = "pip install 'rolloutsim[tables]'"
MILLI = 1e-3
KINDS = {
    "gemm": "gemm", "context_attention": "attention", "generation_attention": "attention", "moe": "moe",
    "custom_allreduce": "comm", "nccl": "comm", "oneccl": "comm", "generation_mla": "mla", "context_mla": "mla",
    "mla_generation_module": "mla", "mla_context_module": "mla", "mla_bmm": "mla_bmm",
    "gdn": "linear_attention",
}  # fmt: skip
"""Folder of each table."""
COLLECTIVES = ("nccl", "oneccl")
"""Libraries that have versions of their own, whatever the engine's."""
FIGURES = (
    "mem_bw", "mem_bw_empirical_scaling_factor", "mem_empirical_constant_latency", "bfloat16_tc_flops",
)  # fmt: skip
NARROW = ("fp8_tc_flops", "fp4_tc_flops")
"""Figures of devices that have units for so few bits."""
LINK = ("intra_node_bw", "p2p_latency")
KERNEL = "kernel_source"


class Found(NamedTuple):
    """Rows of a table, and the version that they are of."""

    rows: pd.DataFrame
    version: str


@dataclass(frozen=True)
class Source:
    """The measurements of one system and engine version; `figures` and `link` are the device's, by their YAML names."""

    folder: Path
    engine: str
    version: str
    figures: Mapping[str, float]
    link: Mapping[str, float]

    def rows(
        self, table: str, where: Mapping[str, Any], keep: Mapping[str, str], absent: Mapping[str, Any] | None = None
    ) -> Found:
        """Rows of `<table>_perf.parquet` that hold these values; `keep` renames the columns to keep. Adds `seconds`.

        absent: columns that older tables lack, and what they hold throughout. Of the versions that may serve, the first with
        such rows counts; of several kernels for one shape, that which was measured at most points of what was found. Repeated
        measurements count as their median. Raises InputError for what cannot be read or used.
        """
        paths = list(self._paths(table))
        for path in paths:
            rows = _read(path, where, keep, absent or {})
            if len(rows):
                return Found(rows, path.parent.name)
        return Found(pd.DataFrame(columns=[*keep.values(), "seconds"]), paths[0].parent.name)

    def has(self, table: str) -> bool:
        """Whether any version that may serve has the table."""
        return next(self._served(table), None) is not None

    def device(self) -> str:
        """The name that the measured device gives itself."""
        path = next(iter(self._paths("gemm")))
        return str(pq.ParquetFile(path).read_row_group(0, columns=["device"]).column("device")[0])

    def _paths(self, table: str) -> Iterator[Path]:
        """Files of the table, the version's own first; InputError where there is none."""
        served = list(self._served(table))
        if not served:
            path = self.folder / KINDS[table] / self.engine / self.version / f"{table}_perf.parquet"
            raise InputError(f"{path}: no such file: give another version of the engine, or a folder that has it")
        yield from served

    def _served(self, table: str) -> Iterator[Path]:
        own = table in COLLECTIVES
        folder = self.folder / KINDS[table] / (table if own else self.engine)
        if not folder.is_dir():
            return
        known = sorted((path.name for path in folder.iterdir() if path.is_dir()), key=_number, reverse=True)
        earlier = known if own else [name for name in known if _number(name) < _number(self.version)]
        versions = earlier if own else [self.version, *_reused(folder / self.version, table), *earlier]
        for version in dict.fromkeys(versions):
            path = folder / version / f"{table}_perf.parquet"
            if path.exists():
                yield path


def open_source(folder: Path | None, system: str, engine: str, version: str | None) -> Source:
    """The measurements of a system in a folder, or in the installed package; `version` None: that which it calls current.

    Where no such file says, the newest. Raises InputError for what is not there.
    """
    folder = packaged() if folder is None else folder
    path = folder / f"{system}.yaml"
    document = _yaml(path, folder)
    data = folder / str(document.get("data_dir", system))
    data = data if data.is_dir() else folder / system
    if not (data / KINDS["gemm"] / engine).is_dir():
        there = sorted(one.name for one in (data / KINDS["gemm"]).glob("*")) if data.is_dir() else []
        raise NotMeasuredError(
            f"{data / KINDS['gemm'] / engine}: no measurements there: give another system or engine"
            + (f" ({', '.join(there)})" if there else "")
        )
    known = {one.name for one in data.glob(f"*/{engine}/*") if one.is_dir()}
    if version is not None and version not in known:
        raise InputError(
            f"{engine} {version} has no measurements of {system}: give one of its versions "
            f"({', '.join(sorted(known, key=_number))}), or leave it out"
        )
    narrow = [name for name in NARROW if name in (document.get("gpu") or {})]
    figures = {name: _figure(path, document, "gpu", name) for name in (*FIGURES, *narrow)}
    link = {name: _figure(path, document, "node", name) for name in LINK} if "node" in document else {}
    chosen = version or _current(folder, system, engine) or newest(data / KINDS["gemm"] / engine)
    return Source(data, engine, chosen, figures, link)


def packaged() -> Path:
    """Folder of the systems of the installed package; InputError where it is not installed."""
    spec = importlib.util.find_spec(PACKAGE)
    if spec is None or not spec.submodule_search_locations:
        raise InputError(f"{DISTRIBUTION} is not installed: {INSTALL}, or name a folder of its tables")
    return Path(spec.submodule_search_locations[0]) / "systems"


def package_version() -> str:
    """Version of the installed package."""
    return importlib.metadata.version(DISTRIBUTION)


def systems(folder: Path | None = None) -> list[tuple[str, str]]:
    """Every system and engine with measurements in a folder, or in the installed package."""
    folder = packaged() if folder is None else folder
    found = []
    for path in sorted(folder.glob("*.yaml")):
        data = next((one for one in (folder / "data" / path.stem, folder / path.stem) if one.is_dir()), None)
        found += [] if data is None else [(path.stem, one.name) for one in sorted((data / KINDS["gemm"]).glob("*"))]
    return found


def newest(folder: Path) -> str:
    """Name of the folder with the highest version number in `folder`."""
    versions = [path.name for path in folder.iterdir() if path.is_dir()] if folder.is_dir() else []
    if not versions:
        raise InputError(f"{folder}: no measurements there: give another system or engine")
    return max(versions, key=_number)


def _number(version: str) -> list[int]:
    return [int(number) for number in re.findall(r"\d+", version)]


def _reused(folder: Path, table: str) -> list[str]:
    """Versions whose table `reuse.yaml` says to take."""
    path = folder / "reuse.yaml"
    if not path.exists():
        return []
    entries = _yaml(path, folder).get("reuse") or []
    return [str(one["from_version"]) for one in entries if one.get("table") == f"{table}_perf"]


def _current(folder: Path, system: str, engine: str) -> str | None:
    """The version that the folder calls current for a system and an engine; None where it says nothing."""
    path = folder / "query_versions.yaml"
    if not path.exists():
        return None
    document = _yaml(path, folder)
    slots = (document.get("overrides") or {}).get(system, document.get("defaults")) or {}
    return (slots.get(engine) or {}).get("current")


def _yaml(path: Path, folder: Path) -> dict[Any, Any]:
    try:
        return load_mapping(path.read_text("utf-8"), "data_dir: ...")
    except InputError as error:
        raise InputError(f"{path}: {error}") from None
    except (OSError, UnicodeDecodeError) as error:
        there = sorted({file.stem for file in folder.glob("*.yaml")} & {name for name, _ in systems(folder)})
        told = ", ".join(there) or "none"
        raise InputError(f"{path}: cannot be read ({error}): systems there are {told}; give one") from None


def _figure(path: Path, document: Mapping[Any, Any], section: str, name: str) -> float:
    held = document.get(section)
    value = held.get(name) if isinstance(held, dict) else None
    if isinstance(value, bool) or not isinstance(value, int | float) or not 0 < value < np.inf:
        raise InputError(f"{path}: {section}.{name} = {value!r}: give a number > 0")
    return float(value)


def _read(path: Path, where: Mapping[str, Any], keep: Mapping[str, str], absent: Mapping[str, Any]) -> pd.DataFrame:
    columns = [*dict.fromkeys([*where, *keep, "latency", "device"])]
    try:
        known = pq.read_schema(path).names
        lacking = [name for name in absent if name not in known]
        if any(where.get(name, absent[name]) != absent[name] for name in lacking):
            return pd.DataFrame(columns=[*keep.values(), "seconds"])
        columns = [name for name in columns if name not in (*lacking, KERNEL)] + [KERNEL] * (KERNEL in known)
        filters: list[Any] = [(name, "==", value) for name, value in where.items() if name not in lacking]
        found = pq.read_table(path, columns=columns, filters=filters or None)
        rows = found.select([*keep, "latency"]).to_pandas().rename(columns=dict(keep))
    except (pa.ArrowException, OSError, ValueError, KeyError) as error:
        reason = " ".join(str(error).split())[:100]
        raise InputError(f"{path}: cannot be read ({reason}): expected columns {', '.join(columns)}") from None
    values = rows.apply(pd.to_numeric, errors="coerce").to_numpy(np.float64)
    bad = ~(np.isfinite(values).all(axis=1) & (values >= 0).all(axis=1) & (values[:, -1] > 0))
    if bad.any():
        told = dict(rows.iloc[int(np.argmax(bad))])
        raise InputError(f"{path}: {told}: a point is of finite numbers >= 0 and its latency > 0; correct or remove it")
    rows["seconds"] = rows.pop("latency").astype(float) * MILLI
    points = list(keep.values())
    if KERNEL not in columns or not len(rows):
        return rows.groupby(points, as_index=False).median() if len(rows) else rows
    rows[KERNEL] = found.column(KERNEL).to_pandas().to_numpy()
    each: pd.DataFrame = rows.groupby([*points, KERNEL], as_index=False).median()
    each["measured"] = each.groupby(KERNEL)["seconds"].transform("size")
    each = each.sort_values(["measured", KERNEL], ascending=[False, True]).drop_duplicates(points)
    return each[[*points, "seconds"]].sort_values(points).reset_index(drop=True)
