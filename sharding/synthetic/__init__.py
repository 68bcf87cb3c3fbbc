"""Draw photographs with complete ground truth, and a partial dump in Open Images V3's layout.

Every class is a shape, a colour and a texture ("striped red star"), so that objects are local,
classes share parts (hard negatives), and the truth is known for every class of every image.

    vocabulary, options     classes; sizes of a dump
    scene                   positions of the objects of an image
    shapes, paint, camera   outlines; texture and light; background, blur, noise
    annotate                rows that humans would have verified
    photograph              one image: scene, JPEG, rows
    layout, dump            files and folders; all images, over processes
"""
