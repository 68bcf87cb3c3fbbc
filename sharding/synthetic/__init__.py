"""Procedural photographs with complete ground truth, and a partial dump in Open Images V3's layout.

Every class is a shape, a colour and a texture ("striped red star"), so that objects are local,
classes share parts (hard negatives), and the truth is known for every class of every image.

    vocabulary, options     what there is to draw, and how much of it
    scene                   where the objects of an image are
    shapes, paint, camera   outlines, objects with texture and light, background and imperfections
    annotate                what humans would have verified of it
    photograph              one image: scene, JPEG, rows
    layout, dump            the tree of files; all images, over processes
"""
