"""What was found best, as settings of a real engine and of the RL framework that starts it, with what to know before pasting."""

from simulator.deploy.settings.choice import Choice, choice_of
from simulator.deploy.settings.emit import EngineSettings, engine_settings
from simulator.deploy.settings.engine import Engine, parse_engine
from simulator.deploy.settings.parts import Check, Level

__all__ = ["Check", "Choice", "Engine", "EngineSettings", "Level", "choice_of", "engine_settings", "parse_engine"]
