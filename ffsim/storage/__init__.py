"""3FS: where chunks lie, reads from SSD to client with request-to-send, other traffic on the same links."""

from ffsim.storage.doubt import Sensitivity, StorageDoubt, doubt_reads
from ffsim.storage.inputs import StorageInputs, load_storage_inputs, storage_document
from ffsim.storage.limits import upper_bounds
from ffsim.storage.paths import RESOURCES, ReadPaths, find_paths
from ffsim.storage.reads import unloaded_s
from ffsim.storage.sample import Sample
from ffsim.storage.simulate import Disturbance, StorageRun, simulate_storage
from ffsim.storage.spec import BackgroundSpec, FileSystem, ReadSpec

__all__ = [
    "RESOURCES",
    "BackgroundSpec",
    "Disturbance",
    "FileSystem",
    "ReadPaths",
    "ReadSpec",
    "Sample",
    "Sensitivity",
    "StorageDoubt",
    "StorageInputs",
    "StorageRun",
    "doubt_reads",
    "find_paths",
    "load_storage_inputs",
    "simulate_storage",
    "storage_document",
    "unloaded_s",
    "upper_bounds",
]
