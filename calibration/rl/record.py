"""The run: supervised learning, then RL step after RL step, each rollout recorded and each step checkpointed."""

import platform
import sys
import time
from collections.abc import Callable
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import torch

from calibration.hardware import cpu
from calibration.rl import hugging_face, sft, state
from calibration.rl.batches import Sequences
from calibration.rl.countdown import Problem, draw
from calibration.rl.generate import generate
from calibration.rl.grpo import Experience, advantages_of, improve, logprobs_of
from calibration.rl.keyed import keyed
from calibration.rl.policy import Weights, fresh
from calibration.rl.settings import Settings
from calibration.rl.state import Progress
from calibration.rl.table import LOGPROBS, ROUNDING, Group, table_of
from calibration.rl.verifier import reward
from calibration.rl.vocabulary import decode, encode, prompt_of
from traces import io
from traces.errors import InputError

SFT_CHECKPOINT_STEPS = 20
BETAS, WEIGHT_DECAY = (0.9, 0.98), 0.01
Tell = Callable[[str], None]


def record(settings: Settings, out: Path, command: str, tell: Tell, model: Path | None = None) -> None:
    """Run to the end, from wherever the state folder beside `out` says, and write the trace of all rollouts to `out`.

    tell: gets a line of progress now and then. model: folder for the policy after the last update, for engines to load.
    Raises InputError where the folder holds a run with other settings, or `out` is there already and not this run's.
    """
    folder = out.with_name(out.name + ".state")
    if out.exists() and not folder.exists():
        raise InputError(f"{out}: already exists: choose another name, or delete it")
    state.open_folder(folder, {**settings.described(), "torch": torch.__version__})
    progress = state.load(folder, settings.device)
    if progress is None:
        progress = Progress({k: v.to(settings.device) for k, v in fresh(settings.shape, settings.seed).items()})
    elif out.exists():
        tell(f"{out} is recorded already")
        _save(progress, settings, model)
        return
    else:
        tell(f"going on after {progress.done} {progress.phase.upper()} steps, from {folder}")
    for weight in progress.weights.values():
        weight.requires_grad_(True)
    problems = prompts_of(settings)
    if progress.phase == "sft":
        _learn_to_search(settings, folder, progress, set(problems), tell)
    _learn_by_reward(settings, folder, progress, problems, tell)
    tables = [io.load(state.rollouts_path(folder, step))[0] for step in range(settings.steps)]
    origin = _origin(settings, command, progress.sft_s, [io.provenance(table)["phase"] for table in tables])
    io.write(pa.concat_tables(table.replace_schema_metadata(None) for table in tables), out, origin, LOGPROBS)
    _save(progress, settings, model)


def _save(progress: Progress, settings: Settings, model: Path | None) -> None:
    if model is not None:
        longest = max(len(prompt_of(problem)) for problem in prompts_of(settings)) + settings.max_tokens
        hugging_face.save(progress.weights, settings.shape, longest, model)


def prompts_of(settings: Settings) -> list[Problem]:
    """The fixed prompts of the run, all different."""
    found: dict[Problem, None] = {}
    which = 0
    while len(found) < settings.prompts:
        found[draw(keyed(settings.seed, "prompt", which))] = None
        which += 1
    return list(found)


def _optimiser(progress: Progress) -> torch.optim.Optimizer:
    found = torch.optim.AdamW(list(progress.weights.values()), betas=BETAS, weight_decay=WEIGHT_DECAY)
    if progress.optimiser:
        found.load_state_dict(progress.optimiser)
    return found


def _set_rate(optimiser: torch.optim.Optimizer, rate: float) -> None:
    for group in optimiser.param_groups:
        group["lr"] = rate


def _learn_to_search(settings: Settings, folder: Path, progress: Progress, held_out: set[Problem], tell: Tell) -> None:
    optimiser = _optimiser(progress)
    start = time.perf_counter()
    for step in range(progress.done, settings.sft_steps):
        lesson = sft.lesson(settings.seed, step, settings.max_tokens, held_out)
        _set_rate(optimiser, sft.learning_rate(step, settings.sft_steps))
        order = keyed(settings.seed, "lesson order", step)
        loss = sft.teach(progress.weights, settings.shape, optimiser, lesson, order, settings.threads, settings.device)
        if (step + 1) % SFT_CHECKPOINT_STEPS == 0:
            now = time.perf_counter()
            progress.sft_s, start = progress.sft_s + now - start, now
            progress.done, progress.optimiser = step + 1, optimiser.state_dict()
            state.save(folder, progress)
            tell(f"SFT step {step + 1} of {settings.sft_steps}: {loss:.3f} nats per token, {progress.sft_s:.0f} s")
    progress.sft_s += time.perf_counter() - start
    progress.phase, progress.done, progress.optimiser = "rl", 0, {}
    state.save(folder, progress)


def _learn_by_reward(settings: Settings, folder: Path, progress: Progress, problems: list[Problem], tell: Tell) -> None:
    optimiser = _optimiser(progress)
    _set_rate(optimiser, settings.learning_rate)
    for step in range(progress.done, settings.steps):
        table, phase = _rl_step(settings, progress.weights, optimiser, problems, step)
        io.write(table, state.rollouts_path(folder, step), {"phase": phase}, LOGPROBS)
        progress.done, progress.optimiser = step + 1, optimiser.state_dict()
        state.save(folder, progress)
        lengths = table.column("output_tokens").to_numpy()
        tell(
            f"RL step {step + 1} of {settings.steps}: reward {table.column('reward').to_numpy().mean():.3f}, "
            f"length mean {lengths.mean():.0f} median {np.median(lengths):.0f} p90 {np.percentile(lengths, 90):.0f}; "
            + ", ".join(f"{name} {seconds:.1f}" for name, seconds in phase.items())
        )


def _rl_step(
    settings: Settings, weights: Weights, optimiser: torch.optim.Optimizer, problems: list[Problem], step: int
) -> tuple[pa.Table, dict[str, float]]:
    """Generate every group, reward, update the weights in place, look again: the trace, and seconds of each phase."""
    clock = [time.perf_counter()]
    prompts = [encode(prompt_of(problem)) for problem in problems for _ in range(settings.samples)]
    responses = generate(weights, settings.shape, prompts, _uniforms(settings, step), settings.threads, settings.device)
    clock.append(time.perf_counter())
    rewards = np.array(
        [reward(problems[i // settings.samples], decode(r.token_ids)) for i, r in enumerate(responses)], np.float32
    ).reshape(-1, settings.samples)
    clock.append(time.perf_counter())
    sequences = Sequences(prompts, [response.token_ids.tolist() for response in responses])
    sampled = [response.logprobs for response in responses]
    experience = Experience(sequences, sampled, advantages_of(rewards).ravel())
    order = keyed(settings.seed, "order", step).permutation(len(problems))
    for chosen in np.array_split(order, settings.minibatches):
        rows = (chosen[:, None] * settings.samples + np.arange(settings.samples)).ravel()
        improve(weights, settings.shape, optimiser, experience, rows, settings.clip, settings.threads, settings.device)
    clock.append(time.perf_counter())
    after = logprobs_of(weights, settings.shape, sequences, settings.threads, settings.device)
    clock.append(time.perf_counter())
    parts = [slice(i, i + settings.samples) for i in range(0, len(prompts), settings.samples)]
    groups = [
        Group(problem, responses[part], row, after[part])
        for problem, row, part in zip(problems, rewards, parts, strict=True)
    ]
    names = ("rollout_s", "reward_s", "update_s", "logprob_s")
    phase = {name: round(b - a, 3) for name, a, b in zip(names, clock, clock[1:], strict=False)}
    return table_of(step, f"rl-{step}", groups), phase


def _uniforms(settings: Settings, step: int) -> Any:
    rollouts = [(prompt, sample) for prompt in range(settings.prompts) for sample in range(settings.samples)]
    return np.stack(
        [
            keyed(settings.seed, "rollout", step, *rollout).random(settings.max_tokens, dtype=np.float32)
            for rollout in rollouts
        ]
    )


def _origin(settings: Settings, command: str, sft_s: float, phases: list[dict[str, float]]) -> dict[str, Any]:
    """Where the rollouts come from, for the file."""
    names = ("torch", "numpy", "pyarrow", "rolloutsim")
    return {
        "source": "rolloutsim calibrate record",
        "command": command,
        "what": "Countdown by written-out search: supervised learning, then GRPO; temperature 1; reward 1 if solved, else 0",
        "settings": settings.described(),
        "hardware": cpu() if settings.device == "cpu" else torch.cuda.get_device_name(),
        "versions": {"python": platform.python_version(), "platform": sys.platform, **{n: version(n) for n in names}},
        "recorded_utc": datetime.now(UTC).isoformat(timespec="seconds"),
        "logprobs": "logprobs under the policy that sampled, next_logprobs under the one after the step's update; "
        + ROUNDING,
        "sft_s": round(sft_s, 1),
        "phases": phases,
    }
