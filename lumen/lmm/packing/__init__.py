"""Many prompts in one pass: rows, their attention, and how they go through the LLM."""
