"""Frames with truth (paper, section II-D; Fig. 2).

::

    vessels: picture and mask  -->  flow: displacement maps, drifting bubbles
    psf, psf_from_frames: how a bubble looks  -->  imaging: frames  -->  simulate: blocks  -->  datasets: files

A frame is the modulus of ``sum_b a_b PSF_b(z - z_b, x - x_b) + speckle + tissue``. `array` and `phantom` make frames by
other physics, plane waves through PyMUST; `bound` says how well a bubble can be localized at all.
"""

from ulmpaper.core.doors import offer

__all__, __getattr__, __dir__ = offer(
    __name__,
    {
        "vessels": "grow_network lumen_mask photograph segment_vessels vessels_from_density_map VesselNetwork",
        "flow": "displacement_maps drop_small advect cross_plane",
        "psf": "PsfBank fine_grid gaussian_bank linear_array_psf read_bank write_bank resample",
        "psf_from_frames": "isolated_bubbles extract_psfs bank_from_patches psf_width bubble_width correlation_width",
        "imaging": "synthesize speckle literal_rf cut_speckle tissue_clutter add_oscillation",
        "simulate": (
            "Scene psf_bank cam_pictures cam_scene cam_block cam_blocks phantom_blocks "
            "invivo_scene invivo_block invivo_blocks simulate_block"
        ),
        "array": "Acquisition PALA_ACQUISITION WAVELENGTH_MM acquire",
        "phantom": "phantom_geometry phantom_block phantom_centreline true_map write_pala",
        "datasets": "simulate_dataset",
        "bound": "crb_px",
    },
)
