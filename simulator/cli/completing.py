"""What a shell may complete after a flag: names that are known, looked up when it asks."""

from collections.abc import Callable, Iterable
from typing import get_args

import click
from click.shell_completion import CompletionItem

from simulator.limits import DrafterKind

Completes = Callable[[click.Context, click.Parameter, str], list[CompletionItem]]


def _beginning(names: Callable[[], Iterable[tuple[str, str]]]) -> Completes:
    """Those of the names, each with a word about it, that begin as what has been typed does."""

    def complete(ctx: click.Context, param: click.Parameter, incomplete: str) -> list[CompletionItem]:
        return [CompletionItem(name, help=about) for name, about in names() if name.startswith(incomplete)]

    return complete


def _policies() -> Iterable[tuple[str, str]]:
    from simulator.budgets.names import NAMES

    return [(name + ":" * (":" in told.usage), told.what) for name, told in NAMES.items()]


def _systems() -> Iterable[tuple[str, str]]:
    from simulator.systems.built_in import ALL, built_in_systems

    return [*((name, "built-in system") for name in built_in_systems()), (ALL, "every one of them")]


def _profiles() -> Iterable[tuple[str, str]]:
    from simulator.cost import list_profiles

    return [(name, "cost profile") for name in list_profiles()]


def _models() -> Iterable[tuple[str, str]]:
    from simulator.catalogue import list_models

    return [(name, "model of the catalogue") for name in list_models()]


def _devices() -> Iterable[tuple[str, str]]:
    from simulator.catalogue import list_devices

    return [(name, "device of the catalogue") for name in list_devices()]


kinds = _beginning(lambda: [(kind, "drafter") for kind in get_args(DrafterKind)])
policies, systems, profiles = _beginning(_policies), _beginning(_systems), _beginning(_profiles)
models, devices = _beginning(_models), _beginning(_devices)
