"""Labels for many pictures: listed, read ahead, answered in parts that can be resumed, and merged into files."""
