"""Import other collections into the same dataset layout: VOC, COCO, NUS-WIDE, CUB, and any CSV.

A reader per format returns a `Collection`: image names and tri-state labels in the order of the
official lists. From there on it is the shard job of Open Images.
"""
