"""Person world: drawn persons with boxes, masks, keypoints, parts, attributes, captions and identities."""
