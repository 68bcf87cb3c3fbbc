"""Procedural photographs with complete ground truth, and a partial dump in Open Images V3's layout.

Every class is a shape, a colour and a texture ("striped red star"), so that objects are local,
classes share parts (hard negatives), and the truth is known for every class of every image.
"""

from sharding.synthetic.dump import make_dump
from sharding.synthetic.options import DumpOptions

__all__ = ["DumpOptions", "make_dump"]
