"""The bound of docs/numerics.md on elementary functions, over a share of all arguments of f32: exhaustive.py takes all of them."""
import os
import subprocess
import sys


def test_within_two_units():
    script = os.path.join(os.path.dirname(os.path.abspath(__file__)), "exhaustive.py")
    out = subprocess.run([sys.executable, script, "--device", "cpu:0", "--every", "16"], capture_output=True, text=True, timeout=600)
    print(out.stdout)
    assert out.returncode == 0, out.stdout + out.stderr
    assert out.stdout.count(" s |") == 7, out.stdout
