"""Catalogue of the parts a cluster is made of: GPUs, CPUs, NICs, switches, SSDs, every figure with its source."""

from ffsim.hardware.catalogue import SHELVES, TYPES, Part, load_part
from ffsim.hardware.specs import Cpu, Gpu, Nic, Ssd, Switch

__all__ = ["SHELVES", "TYPES", "Cpu", "Gpu", "Nic", "Part", "Ssd", "Switch", "load_part"]
