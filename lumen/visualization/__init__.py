"""Pictures of answers: boxes, masks, skeletons, counts, heatmaps, sheets of several, and why an object was missed.

Images are uint8 RGB arrays (height, width, 3). Drawn with PIL alone, so that a prediction does not wait for a plotting
library; a run's curves are MMEngine's business.
"""

from lumen.visualization.answers import draw_answer, draw_texts, draw_truth
from lumen.visualization.canvas import (
    Colour,
    RgbImage,
    contact_sheet,
    legend,
    magnification,
    phrase_colour,
    save_png,
    stacked,
    text_block,
)
from lumen.visualization.heat import draw_heatmap, heat_colours, spread_heat
from lumen.visualization.inspector import REASONS, Candidates, Verdict, inspect, judge, match, verdict
from lumen.visualization.instances import draw_arrows, draw_boxes, draw_counts, draw_masks, draw_points, draw_skeletons

__all__ = [
    "REASONS",
    "Candidates",
    "Colour",
    "RgbImage",
    "Verdict",
    "contact_sheet",
    "draw_answer",
    "draw_arrows",
    "draw_boxes",
    "draw_counts",
    "draw_heatmap",
    "draw_masks",
    "draw_points",
    "draw_skeletons",
    "draw_texts",
    "draw_truth",
    "heat_colours",
    "inspect",
    "judge",
    "legend",
    "magnification",
    "match",
    "phrase_colour",
    "save_png",
    "spread_heat",
    "stacked",
    "text_block",
    "verdict",
]
