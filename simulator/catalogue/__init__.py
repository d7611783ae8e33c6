"""Known models and devices, and a roofline estimate of any model on any device.

`models/` holds the shapes, `devices.yaml` the data sheets; `estimate` turns one of each into a profile.
"""

from simulator.catalogue.catalogue import estimate, list_devices, list_models, load_device, load_model

__all__ = ["estimate", "list_devices", "list_models", "load_device", "load_model"]
