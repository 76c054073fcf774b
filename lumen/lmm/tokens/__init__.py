"""Text to token ids: phrases, questions, special tokens."""
