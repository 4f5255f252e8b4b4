"""Compress an image once; classify, segment and detect straight from the bits.

    image --codec--> latents --bitstream--> .cdi bytes --data--> batches --models--> prediction

Subpackages follow that flow: ``codecs``, ``bitstream``, ``data``, ``models``, then ``tasks``
(what is trained), ``runs`` (what a training leaves behind) and ``cli``.
"""

__version__ = "0.1.0"
