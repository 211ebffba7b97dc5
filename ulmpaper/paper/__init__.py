"""What belongs to this paper only: its comparison of methods, Tables I and II, Figures 1 to 5.

::

    sequences  --experiment: all methods on the same blocks-->  Comparison
               --scores-->  tables, figures  --export-->  files

Each method gets its best setting on validation data; intervals come from drawing groups of frames
again.
"""

from ulmpaper.core.doors import offer, optional

with optional("all"):
    import matplotlib  # noqa: F401

__all__, __getattr__, __dir__ = offer(
    __name__,
    {
        "runs": "NotebookRun start_run",
        "palafiles": "ratbrain_files",
        "sequences": "insilico_blocks sequence_numbers",
        "experiment": (
            "Method Comparison compare locate_all number_grid threshold_grid best_settings"
        ),
        "scores": "BLACK TRUTH Scores",
        "tables": "RS MSPCN ML3D PAPER MAP_SCORES table1 table2 ranking sentences paper_sized",
        "chapters": (
            "RS_PALA settings_to_try classical_label table_methods table_rivals table_slugs "
            "map_panels plot_scores plot_centrelines scores_beside_paper paper_sized_rows "
            "table_results"
        ),
        "figure1": "plot_figure1",
        "figures": "plot_figure2 plot_figure3 plot_figure4 plot_figure5",
        "costs": "measure_costs per_frame",
        "export": "export_figure export_table FOLDER",
        "films": "Player as_picture save_film",
    },
)
