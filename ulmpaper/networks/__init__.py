"""Model, loss, training and use of the networks (paper, sections II-A to II-C and II-E).

::

    windows (N, z, x)  --model-->  maps p, oz, ox  --loss-->  training
    recordings  --predict-->  maps  --targets-->  bubbles

`recipes`, `windows`, `train` and `checkpoint` make the training; `localize` and `weights` bring the
trained networks into use. 3DML-ResNet predicts for each pixel the probability ``p`` of a bubble and
its offset ``(oz, ox)`` in the pixel; it learns by Eq. (3), detection loss plus offset loss. A
second network predicts the number of bubbles in a tile, and the pixels with the highest ``p``
become bubbles.
"""

from ulmpaper.core.doors import offer, optional

with optional("networks"):
    import safetensors  # noqa: F401
    import torch  # noqa: F401

__all__, __getattr__, __dir__ = offer(
    __name__,
    {
        "model": "ML3DResNet CountNet MSPCN ResidualBlock SkipSum layer_table",
        "loss": (
            "blur detection_loss offset_loss ml3d_loss mixture_loss sigma_loss "
            "count_loss mspcn_loss HEATMAP_SCALE HEATMAP_GAIN"
        ),
        "targets": "encode_offsets encode_heatmap decode_offsets decode_heatmap",
        "weights": (
            "read_network write_network shipped_weights find_weights "
            "resolve_device resolve_precision"
        ),
        "predict": "predict_maps predict_heatmaps predict_counts count_tiles Mirrored",
        "localize": "load_network locate_ml3d locate_mspcn",
        "domain": "domain_gap",
        "sampling": "own_scale",
        "recipes": "RECIPES Recipe",
        "windows": "SimulatedSource StoredSource Batches seeded_sequence cut",
        "train": "training_windows validation_blocks RunSummary",
    },
    hints={"fit": "ulmpaper.train(recipe, folder, cfg)"},
)
