"""The timeline: read back field by field, its slices and counters are the result's seconds and counts."""

import dataclasses
import gzip
import struct
from collections import defaultdict
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest

from simulator.report.chosen import of_systems
from simulator.report.timeline import tracks
from simulator.report.timeline.phases import KINDS, phases
from simulator.report.timeline.protobuf import Writer, number, varint
from simulator.report.timeline.tracks import replicas_of
from simulator.report.timeline.write import MOST_SYSTEMS, write
from simulator.results import Result
from simulator.scenario import Scenario
from traces.errors import InputError

Fields = dict[int, list[Any]]


def fields(content: bytes) -> Fields:
    """Fields of a message by number: whole numbers, doubles, or bytes."""
    found: Fields = defaultdict(list)
    at = 0

    def whole() -> int:
        nonlocal at
        value = shift = 0
        while True:
            byte = content[at]
            value |= (byte & 0x7F) << shift
            at, shift = at + 1, shift + 7
            if byte < 0x80:
                return value

    while at < len(content):
        key = whole()
        if key & 7 == 0:
            found[key >> 3].append(whole())
        elif key & 7 == 1:
            found[key >> 3].append(struct.unpack_from("<d", content, at)[0])
            at += 8
        else:
            assert key & 7 == 2
            size = whole()
            found[key >> 3].append(content[at : at + size])
            assert len(found[key >> 3][-1]) == size
            at += size
    return found


@dataclass
class Track:
    name: str
    parent: int
    counts: bool
    slices: list[tuple[str, int, int, dict[str, Any]]] = field(default_factory=list)
    points: list[tuple[int, float]] = field(default_factory=list)


def read_back(content: bytes) -> dict[int, Track]:
    """Tracks by number. Every slice is ended, none begins before the one before it ended, and counters go forward."""
    found: dict[int, Track] = {}
    begun: dict[int, tuple[str, int, dict[str, Any]]] = {}
    for packet in map(fields, fields(content)[1]):
        assert packet[10] == [1]
        if 60 in packet:
            told = fields(packet[60][0])
            found[told[1][0]] = Track(told[2][0].decode(), told[5][0] if 5 in told else 0, 8 in told)
            continue
        time_ns, event = packet[8][0], fields(packet[11][0])
        track, kind = event[11][0], event[9][0]
        if kind == 1:
            notes = [fields(note) for note in event[4]]
            held = {one[10][0].decode(): next(one[i][0] for i in (4, 5, 6) if i in one) for one in notes}
            assert track not in begun
            begun[track] = event[23][0].decode(), time_ns, held
        elif kind == 2:
            name, from_ns, held = begun.pop(track)
            assert time_ns >= from_ns
            assert not found[track].slices or found[track].slices[-1][2] <= from_ns
            found[track].slices.append((name, from_ns, time_ns, held))
        else:
            assert kind == 4
            assert found[track].counts
            assert not found[track].points or found[track].points[-1][0] <= time_ns
            found[track].points.append((time_ns, event[44][0]))
    assert not begun
    return found


def within(found: dict[int, Track], system: str) -> dict[str, list[Track]]:
    """Tracks of a system by name, those of replicas' counters as `replica N/name`."""
    (root,) = [
        number_ for number_, track in found.items() if track.name.partition(" ")[2] == system and not track.parent
    ]
    mine: dict[str, list[Track]] = defaultdict(list)
    for number_, track in found.items():
        if track.parent == root:
            mine[track.name].append(track)
            for inner in found.values():
                if inner.parent == number_:
                    mine[f"{track.name}/{inner.name}"].append(inner)
    return mine


def seconds(parts: list[Track], *names: str) -> float:
    return (
        sum(end - begin for track in parts for name, begin, end, _ in track.slices if not names or name in names) / 1e9
    )


def rows(table: pa.Table, system: str) -> list[dict[str, Any]]:
    return of_systems(table, [system]).to_pylist()


def test_slices_add_up_to_the_results_seconds(result: Result, staged: tuple[Result, Scenario], tmp_path: Path) -> None:
    for one in (result, staged[0]):
        write(one, tmp_path / "run.pftrace")
        found = read_back((tmp_path / "run.pftrace").read_bytes())
        for run in one.runs.to_pylist():
            mine, steps = within(found, run["system"]), rows(one.steps, run["system"])
            for replica in {row["replica"] for row in steps}:
                (track,) = mine[f"replica {replica}"]
                these = [row for row in steps if row["replica"] == replica]
                told = [held for name, _, _, held in track.slices if name in KINDS]
                busy_s = seconds([track], *KINDS)
                assert busy_s == pytest.approx(sum(row["duration_s"] for row in these), abs=1e-9 * len(track.slices))
                assert busy_s + seconds([track], "idle") == pytest.approx(run["run_s"], abs=1e-9 * len(track.slices))
                assert sum(held["decode_steps"] for held in told) == len(these)
                for name in ("emitted_tokens", "drafted_tokens", "accepted_tokens", "prefill_tokens"):
                    assert sum(held[name] for held in told) == sum(row[name] for row in these)
            step_s = sum(row["trained_s"] - row["start_s"] for row in rows(one.rl_steps, run["system"]))
            assert seconds(mine["RL steps"]) == pytest.approx(step_s, abs=1e-8)
            assert seconds(mine["tail"]) == pytest.approx(run["straggler_s"], abs=1e-8)
            stages: dict[str, float] = defaultdict(float)
            for span in rows(one.spans, run["system"]):
                if span["what"] != "decode":
                    stages[f"stage: {span['who']}"] += span["end_s"] - span["start_s"]
            assert {name: seconds(mine[name]) for name in stages} == pytest.approx(stages, abs=1e-7)
    assert {"stage: log_probs", "stage: update", "stage: sync", "stage: reward"} <= {
        track.name for track in found.values()
    }


def test_counters_hold_what_the_steps_do(result: Result, tmp_path: Path) -> None:
    write(result, tmp_path / "run.pftrace")
    found = read_back((tmp_path / "run.pftrace").read_bytes())
    for run in result.runs.to_pylist():
        mine = within(found, run["system"])
        live_s = sum(row["live"] * row["duration_s"] for row in rows(result.steps, run["system"]))
        for parts in ([mine["live sequences, all replicas"]], [mine[f"replica {i}/live sequences"] for i in (0, 1)]):
            area_s = 0.0
            for (track,) in parts:
                times_ns, values = np.array(track.points).T
                assert values[-1] == 0
                area_s += values[:-1] @ np.diff(times_ns) / 1e9
            assert area_s == pytest.approx(live_s, rel=1e-6)
        for replica in (0, 1):
            drafted = mine.get(f"replica {replica}/drafted a step", [])
            assert len(drafted) == (run["drafted_tokens"] > 0)
            (blocks,) = mine[f"replica {replica}/free KV blocks"]
            free = [row["free_blocks"] for row in rows(result.steps, run["system"]) if row["replica"] == replica]
            assert {value for _, value in blocks.points} == set(free)


def test_stragglers_are_named(result: Result, tmp_path: Path) -> None:
    write(result, tmp_path / "run.pftrace")
    found = read_back((tmp_path / "run.pftrace").read_bytes())
    for run in result.runs.to_pylist():
        starts_s = {row["step"]: row["start_s"] for row in rows(result.rl_steps, run["system"])}
        late = [row for row in rows(result.rollouts, run["system"]) if row["straggler"]]
        told = [one for track in within(found, run["system"])["stragglers"] for one in track.slices]
        assert len(told) == len(late)
        assert {(held["RL step"], held["prompt_id"].decode(), held["sample"]) for *_, held in told} == {
            (row["step"], row["prompt_id"], row["sample"]) for row in late
        }
        assert max(end for _, _, end, _ in told) == round(
            1e9 * max(starts_s[row["step"]] + row["finished_s"] for row in late)
        )


def test_joined_phases_keep_seconds_and_counts(result: Result) -> None:
    for replicas in replicas_of(result.steps, result.rl_steps).values():
        for one in replicas:
            whole, joined = phases(one.steps, one.rl_step, 10**9), phases(one.steps, one.rl_step, 40)
            assert joined.kind.size <= 40 + len(set(one.rl_step.tolist()))
            assert joined.kind.size < whole.kind.size
            for name in ("decode_steps", "emitted_tokens", "draft_s"):
                assert getattr(joined, name).sum() == pytest.approx(getattr(whole, name).sum())
            lengths = [(each.end_s - each.begin_s).sum() for each in (whole, joined)]
            assert lengths[0] == pytest.approx(lengths[1], rel=1e-9)
            assert (joined.begin_s[1:] >= joined.end_s[:-1] - 1e-9).all()


def test_many_decode_steps_make_a_small_file(result: Result, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tracks, "MOST_EVENTS", 6_000)
    told = write(result, tmp_path / "run.pftrace")
    assert int(told.partition(" ")[0].replace(",", "")) < 6_000
    found = read_back((tmp_path / "run.pftrace").read_bytes())
    for run in result.runs.to_pylist():
        parts = [
            track
            for name, those in within(found, run["system"]).items()
            if name.startswith("replica")
            for track in those
        ]
        busy_s = sum(row["duration_s"] for row in rows(result.steps, run["system"]))
        assert seconds(parts, *KINDS) == pytest.approx(busy_s, abs=1e-5)


def test_gzipped_is_the_same_and_so_is_a_second_time(result: Result, tmp_path: Path) -> None:
    names = ("one.pftrace", "one.pftrace.gz", "two.pftrace.gz")
    for name in names:
        write(result, tmp_path / name)
    plain, packed, again = ((tmp_path / name).read_bytes() for name in names)
    assert plain == gzip.decompress(packed)
    assert packed == again
    assert len(packed) < len(plain) / 3


def test_what_is_left_out_is_said(result: Result, tmp_path: Path) -> None:
    run = result.runs.slice(1, 1)
    more = [run.set_column(0, "system", pa.array([f"policy {i}"])) for i in range(20)]
    many = dataclasses.replace(result, runs=pa.concat_tables([result.runs, *more]), steps=result.steps.slice(50))
    told = write(many, tmp_path / "run.pftrace")
    assert f"{MOST_SYSTEMS} of 23 systems" in told
    assert "without decode steps of none" in told
    found = read_back((tmp_path / "run.pftrace").read_bytes())
    assert sum(not track.parent for track in found.values()) == MOST_SYSTEMS + 1


def test_odd_names_and_numbers_are_written(tmp_path: Path) -> None:
    with (tmp_path / "odd").open("wb") as file:
        writer = Writer(file)
        track = writer.track("a\udcffb\x00")
        writer.slice(track, "<b>", 0, 2**53, {"negative": -3, "half": 0.5, "text": "日本"})
    (only,) = read_back((tmp_path / "odd").read_bytes()).values()
    assert only.name == "a\\udcffb\x00"
    assert only.slices == [("<b>", 0, 2**53, {"negative": 2**64 - 3, "half": 0.5, "text": "日本".encode()})]
    assert (varint(300), number(1, 150)) == (b"\xac\x02", b"\x08\x96\x01")  # the examples of protobuf's own description


def test_a_file_that_cannot_be_written_is_the_users_error(result: Result, tmp_path: Path) -> None:
    with pytest.raises(InputError, match="create the folder"):
        write(result, tmp_path / "absent" / "run.pftrace")
