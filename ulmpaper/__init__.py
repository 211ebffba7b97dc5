"""Ultrasound localization microscopy: the reproducible companion of 3DML-ResNet (EUSIPCO 2024).

The chain::

    frames (t, z, x)  ->  bubbles (frame, z, x, score)  ->  tracks  ->  density and velocity maps

Twelve calls, `import ulmpaper` first:

1.  read            ``frames = ulmpaper.read_frames("frames.mat")``; ``open_frames`` streams 2.  the
whole chain ``result = ulmpaper.ulm(frames, {"locate.n_bubbles": 60}, method="parabola")`` 3.
settings        ``cfg = ulmpaper.load_config("quick", {"track.max_gap": 1})`` 4.  find bubbles
``bubbles = ulmpaper.locate(frames, "radial", n_bubbles=40)``; also ``"ml3d"``, ``"mspcn"`` 5.  link
``tracks = ulmpaper.drop_short(ulmpaper.link(bubbles), 15)`` 6.  maps
``maps = ulmpaper.render_maps(tracks, (84, 143), px_mm=0.1, frame_rate_hz=1000)``; ``maps.density``
7.  score bubbles   ``ulmpaper.score_bubbles(found, truth)``; ``match_bubbles`` gives the pairs 8.
score maps      ``ulmpaper.score_maps(estimate, truth, upsample=10)`` 9.  simulate
``block = ulmpaper.simulate("cam", split="test", number=0)``; also phantom, invivo, testcard 10.
train           ``ulmpaper.train("ml3d", "run", cfg)`` 11. a network
``net = ulmpaper.load_network("ml3d")``; ``net.about`` 12. compare
``c = ulmpaper.paper.compare(blocks, methods, cfg)``; ``c.bubble_scores(rng=rng)``

Results: ``result.bubbles``, ``result.tracks``, ``result.maps["density"]``, ``result.save("out")``;
pictures: ``plot_frame``, ``plot_tracks``, ``plot_map``. The rooms behind the door:
``core io simulator networks metrics paper``.

>>> import ulmpaper
>>> block = ulmpaper.simulate("testcard", n_frames=60)
>>> result = ulmpaper.ulm(block, {"locate.n_bubbles": 20}, method="parabola")
>>> result.maps["density"].shape
(840, 1430)
"""

from ulmpaper.core.doors import offer

__version__ = "0.1.0"

__all__, __getattr__, __dir__ = offer(
    __name__,
    {
        "config": "load_config",
        "core.records": "Block bubble_table",
        "core.track": "link drop_short interpolate",
        "core.render": "render_maps",
        "io.readers": "read_frames open_frames",
        "io.fetch": "fetch",
        "metrics.bubbles": "match_bubbles score_bubbles",
        "metrics.maps": "score_maps",
        "networks.localize": "load_network",
        "networks.train": "train",
        "pipeline": "ulm locate save_result",
        "plots": "plot_frame plot_tracks plot_map",
        "simulator.simulate": "simulate",
    },
    hints={
        "jaccard": "score_bubbles(found, truth) gives jaccard_near and jaccard_far",
        "read": "read_frames(path)",
        "write": "save_result(result, folder), or result.save(folder)",
        "write_result": "save_result(result, folder), or result.save(folder)",
        "detect": "locate(frames, method)",
        "localize": "locate(frames, method)",
        "track": "link(bubbles), then drop_short(tracks)",
        "render": "render_maps(tracks, shape_px, px_mm=..., frame_rate_hz=...)",
        "compare": "paper.compare(blocks, methods, cfg)",
    },
)
