"""MMDetection's data sets, metrics, visualizer and detectors, beside Lumen's own. Needs the extra ``mmdet``."""
