"""All files and the network: frames in, data sets fetched, results written.

::

    fetch  -->  files  --readers-->  blocks (t, z, x)  --store-->  block store (HDF5)
    tables, maps, settings  --results-->  a folder

Frames stream block by block. Every file is written under a hidden name and moved when complete;
nothing is unpickled.
"""

from ulmpaper.core.doors import offer

__all__, __getattr__, __dir__ = offer(
    __name__,
    {
        "readers": (
            "read_frames open_frames read_insilico read_ratbrain read_ratkidney "
            "store_frames FrameFile"
        ),
        "store": "BlockStore",
        "truth": "read_truth",
        "fetch": "REGISTRY registry_table unpack",
        "results": "ResultWriter read_table",
        "files": "atomic_path write_atomic fingerprint",
    },
    hints={"read": "read_frames(path)", "write_result": "ulmpaper.save_result(result, folder)"},
)
