"""Other collections into the same dataset layout: VOC, COCO, NUS-WIDE, CUB, and any CSV.

A reader per format yields a `Collection`: image names and tri-state labels in the order of the
official lists. Everything after that is the shard job of Open Images.
"""
