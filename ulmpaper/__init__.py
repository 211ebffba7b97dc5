"""Ultrasound localization microscopy: the reproducible companion of 3DML-ResNet (EUSIPCO 2024).

The chain::

    frames (t, z, x)  ->  bubbles (frame, z, x, score)  ->  tracks  ->  density and velocity maps

Twelve calls, after ``import ulmpaper``::

     1 read      block = ulmpaper.read_frames("frames.mat", px_mm=0.1, frame_rate_hz=1000)
                 for block in ulmpaper.open_frames("frames.mat").blocks(800): ...
     2 all       result = ulmpaper.ulm(block, {"locate.n_bubbles": 60}, method="parabola")
                 result.bubbles, result.tracks, result.maps["density"]; result.save("out")
     3 settings  cfg = ulmpaper.load_config("quick", {"track.max_gap": 1})
     4 locate    bubbles = ulmpaper.locate(block, "radial", 40)  # "ml3d", "mspcn", your function
     5 link      tracks = ulmpaper.drop_short(ulmpaper.link(bubbles), 15)
     6 maps      maps = ulmpaper.render_maps(tracks, (84, 143), px_mm=0.1, frame_rate_hz=1000)
                 maps.density, maps.velocity
     7 score     ulmpaper.score_bubbles(found, truth)
                 ulmpaper.metrics.detection_scores(ulmpaper.match_bubbles(found, truth, 0.5))
     8 score     ulmpaper.score_maps(maps.density, true.density, upsample=10)
                 with true = ulmpaper.render_maps(ulmpaper.link(block.truth), ...)
     9 simulate  block = ulmpaper.simulate("cam", split="test")  # "phantom", "invivo", "testcard"
    10 train     ulmpaper.train("ml3d", "run", cfg)
    11 network   net = ulmpaper.load_network("ml3d"); net.about  # ("ml3d", "paper"): as large as
                 the paper's, in the chain by {"ml3d.weights": "paper"}
    12 compare   Method = ulmpaper.paper.Method
                 methods = {"RS": Method("radial", 20), "parabola": Method("parabola", 20)}
                 compared = ulmpaper.paper.compare([block], methods, cfg)
                 rng = numpy.random.default_rng(0)
                 scores = compared.bubble_scores(rng=rng); scores.values, scores.half_widths()
                 compared.map_scores(rng=rng).text()  # value and half width in one table
                 scores.values["jaccard_near"].idxmax()  # the winner; best_settings: by method

A first look: ``look(path).save("page.html")`` says what a recording holds and which settings fit.
Pictures: ``plot_frame, plot_tracks, plot_map``. Public data: ``io.registry_table()`` lists it,
``fetch(name)`` gets it. The rooms behind the door: ``core io simulator networks metrics paper``.

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
        "pipeline.detect": "locate",
        "pipeline.look": "look",
        "pipeline.recording": "ulm save_result",
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
        "compare": "pipeline.compare_methods(frames, 'radial,ml3d')",
        "read_results": "pandas.read_csv('out/tracks.csv'), numpy.load('out/maps.npz')",
        "load_results": "pandas.read_csv('out/tracks.csv'), numpy.load('out/maps.npz')",
        "filters": "core.svd_filter, core.butter_bandpass, core.envelope",
        "detection_scores": "metrics.detection_scores(pairs)",
        "plot": "plot_frame, plot_tracks or plot_map",
    },
)
