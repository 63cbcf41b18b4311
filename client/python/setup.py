"""Builds the message classes from the .proto files of the tree before setuptools copies the package."""
import os

from setuptools import setup
from setuptools.command.build_py import build_py

HERE = os.path.dirname(os.path.abspath(__file__))
PROTO = os.path.normpath(os.path.join(HERE, "..", "..", "proto"))
MESSAGES = ["kiln/v1/graph.proto", "kiln/v1/kiln.proto"]
SERVICES = ["kiln/v1/kiln.proto"]


class BuildWithProtos(build_py):
    """build_py, plus kiln/v1/*_pb2.py and *_pb2_grpc.py written into the build folder."""

    def run(self):
        super().run()
        from grpc_tools import protoc
        import grpc_tools

        include = os.path.join(os.path.dirname(grpc_tools.__file__), "_proto")
        common = ["protoc", f"-I{PROTO}", f"-I{include}", f"--python_out={self.build_lib}", f"--pyi_out={self.build_lib}"]
        os.makedirs(os.path.join(self.build_lib, "kiln", "v1"), exist_ok=True)
        if protoc.main(common + MESSAGES):
            raise RuntimeError("protoc failed on the messages")
        if protoc.main(["protoc", f"-I{PROTO}", f"-I{include}", f"--grpc_python_out={self.build_lib}"] + SERVICES):
            raise RuntimeError("protoc failed on the service")


setup(cmdclass={"build_py": BuildWithProtos})
