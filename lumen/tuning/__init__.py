"""From a folder of labelled pictures to a config and a training: what ``lumen train`` does."""
