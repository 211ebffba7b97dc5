"""Frames with truth (paper, section II-D; Fig. 2).

::

    vessels   picture and mask                         Fig. 2a, b
    flow      displacement maps, drifting bubbles      Fig. 2c, d
    psf       how a bubble looks; psf_from_frames      Fig. 2f
    imaging   bubbles, speckle and tissue to frames    Fig. 2e
    simulate  all of it, from settings to blocks;  datasets  to files

A frame is the modulus of ``sum_b a_b PSF_b(z - z_b, x - x_b) + speckle + tissue``. `array` and
`phantom` make frames by other physics, plane waves through PyMUST; `bound` says how well a bubble
can be localized at all.
"""

from ulmpaper.core.doors import offer

__all__, __getattr__, __dir__ = offer(
    __name__,
    {
        "vessels": (
            "VesselNetwork grow_network lumen_mask photograph segment_vessels "
            "vessels_from_density_map"
        ),
        "flow": "MEAN_AMPLITUDE displacement_maps advect cross_plane drop_small",
        "psf": (
            "SHIPPED_BANK PsfBank fine_grid gaussian_bank linear_array_psf resample read_bank "
            "write_bank"
        ),
        "psf_from_frames": (
            "isolated_bubbles extract_psfs bank_from_patches psf_width bubble_width "
            "correlation_width"
        ),
        "imaging": "synthesize literal_rf add_oscillation speckle cut_speckle tissue_clutter",
        "simulate": (
            "SPLITS Scene cam_pictures cam_scene invivo_scene psf_bank simulate_block cam_block "
            "cam_blocks phantom_blocks invivo_block invivo_blocks seeded_stream"
        ),
        "array": (
            "N_ELEMENTS PITCH_M CENTRE_HZ SPEED_M_S WAVELENGTH_MM PALA_ACQUISITION Acquisition "
            "acquire acquire_spans"
        ),
        "phantom": (
            "SEQUENCES Tube phantom_geometry phantom_block true_map phantom_centreline write_pala"
        ),
        "datasets": "simulate_dataset",
        "bound": "crb_px",
    },
    hints={
        "background": "speckle(shape_px, rng=rng)",
        "fade": "cross_plane(bubbles, speed=speed, rng=rng)",
    },
)
