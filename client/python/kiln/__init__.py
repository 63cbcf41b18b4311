"""Client of the Kiln compile server.

    import kiln
    client = kiln.connect()                      # the user's own daemon; or "unix:PATH", "host:port"
    exe = client.compile("model.onnx")           # a path, the bytes of a model, or a kiln.Graph
    outputs = exe({"x": array})                  # dict of numpy arrays in, dict out

Errors are kiln.Error; its `code` is the name of a gRPC status ("INVALID_ARGUMENT", "NOT_FOUND", ...).
The asyncio form of everything here is kiln.aio.
"""
from ._access import Tls
from ._errors import Error
from ._memory import Memory
from ._options import Dim, Options
from .client import Buffer, Client, Executable, KernelReport, TensorSpec, ValueSpec, connect
from ._tune import TunedKernel, TuneProgress, TuneSummary
from .graph import Graph, Node
from ._size import Size
from . import aio

__version__ = "0.1.0"
__all__ = ["Buffer", "Client", "Dim", "Error", "Executable", "Graph", "KernelReport", "Memory", "Node", "Options", "Size", "TensorSpec", "Tls", "TuneProgress", "TuneSummary", "TunedKernel", "ValueSpec", "aio", "connect"]
