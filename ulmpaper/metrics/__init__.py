"""Numbers about tables and maps.

::

    found, true bubbles  --match-->  pairs  -->  precision TP/(TP+FP), recall TP/(TP+FN),
                                                 Jaccard TP/(TP+FP+FN), errors
    estimated, true map  -->  SSIM, RMSE, gridding, saturation, share of the vessels shown
"""

from ulmpaper.core.doors import offer

__all__, __getattr__, __dir__ = offer(
    __name__,
    {
        "bubbles": (
            "match_bubbles detection_scores localization_errors "
            "score_bubbles join_sequences subpixel_histogram"
        ),
        "maps": (
            "score_image score_maps gridding_index saturation "
            "fourier_ring_correlation frc_resolution"
        ),
        "coverage": "score_lines score_lengths mask_centreline is_shown",
    },
    hints={"jaccard": "score_bubbles(found, truth) gives jaccard_near and jaccard_far"},
)
