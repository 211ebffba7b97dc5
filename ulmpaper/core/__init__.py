"""The chain as pure functions: arrays and tables in, new arrays and tables out.

::

    frames (t, z, x)  --filters-->  frames without tissue
                      --localize, subpixel-->  bubbles (frame, z, x, score)
                      --track-->  tracks and paths (z, x, vz, vx)
                      --render-->  maps

With ``S`` the pixels-by-time matrix of a block and ``v_k`` its right singular vectors, the clutter
filter keeps ``S sum_k v_k v_k^H``; a bubble lies where a pixel is higher than its neighbours, moved
by a sub-pixel shift; links have the least sum of squared distances; a map counts the tracks through
each of its pixels, ten times finer than a frame's.
"""

from ulmpaper.core.doors import offer

__all__, __getattr__, __dir__ = offer(
    __name__,
    {
        "records": (
            "Block bubble_table UlmWarning "
            "check_amplitude check_bubbles check_choice check_frames check_positive"
        ),
        "health": "check_health FrameHealth",
        "grid": "map_shape map_index frame_position",
        "filters": "svd_filter butter_bandpass envelope to_db",
        "localize": "locate_peaks",
        "subpixel": (
            "METHODS centre_pixel weighted_average radial_symmetry gaussian_fit log_parabola "
            "cubic_peak lanczos_peak spline_peak"
        ),
        "spots": "isolated_bubbles psf_width bubble_width",
        "track": "link drop_short smooth interpolate add_velocity per_track track_summary",
        "render": "Maps render_maps map_sums density power_doppler",
        "testcard": "simulate_testcard",
    },
    hints={
        "lengths": "tracks['track'].value_counts()",
        "summary": "track_summary(tracks, frame_rate_hz=...)",
        "locate": "ulmpaper.locate(frames, method)",
    },
)
