"""Sharding against its peers and its limits; the measures are in `shards.py`, see there.

    python benchmarks/sharding.py keep --count 300 --rounds 7
    python benchmarks/sharding.py shrink --count 100 --rounds 5

Python looks for modules beside a script first, so that this file would stand for the package of the
same name, here and in every other benchmark. Beside the script is therefore moved to the end of the
search path, and where a benchmark asked for the package and got this file, it gets the package.
"""

import importlib
import sys
from pathlib import Path

_HERE = Path(__file__).resolve().parent
sys.path = [entry for entry in sys.path if Path(entry or ".").resolve() != _HERE] + [str(_HERE)]

if __name__ == "__main__":
    importlib.import_module("shards").main()
else:
    del sys.modules[__name__]
    importlib.import_module(__name__)
