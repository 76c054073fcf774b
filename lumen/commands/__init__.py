"""Commands of ``lumen`` that have a file of their own, and the options that commands share."""
