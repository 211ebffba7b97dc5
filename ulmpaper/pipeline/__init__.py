"""Whole jobs: frames in; bubbles, tracks and maps out; many blocks in parallel.

::

    frames  --filter-->  --locate-->  bubbles  --link, drop short-->  tracks
            --interpolate, render-->  maps  --save_result-->  a folder

Settings come from a `Config`, frames from an array, a `Block` or a file. `compare_methods` runs
several methods on the same frames.
"""

from ulmpaper.core.doors import offer

__all__, __getattr__, __dir__ = offer(
    __name__,
    {
        "detect": "locate",
        "blocks": "ulm_blocks MapTotals draw_lines",
        "look": "Look look_briefly",
        "recording": "ulm save_result UlmResult",
        "side_by_side": "compare_methods SideBySide",
    },
)
