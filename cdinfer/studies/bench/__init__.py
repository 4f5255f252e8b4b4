"""Speed and size against the peers, as ratios: each file one question, each with a function `run`.

    entropy    symbols <-> bytes: ours, constriction, CompressAI, zstd
    loading    shards -> training batches, against webdataset and four JPEG decoders
    export     pictures -> shards, over the encoder's own forward pass
    latency    one picture at a time: bytes -> symbols -> latents -> picture, and back
    inference  bytes -> class: latents, against decoded pictures, JPEG and CompressAI
    masks      bytes -> mask, likewise
    steps      training steps, likewise
    memory     the most that processes hold to do all that
    startup    whole processes: ``cdinfer --help``, ``cdinfer encode one.jpg``
    overhead   bytes of a set that are no payload
    gpu        training and inference steps on a GPU, and the CPU cores that feed them

What is compared runs in turns in one run, in one thread: see `timing`. Rows are those of `rows`.
"""
