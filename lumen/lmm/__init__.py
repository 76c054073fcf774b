"""The LMM: adapters, the nano model, packed prompts. The only room that imports transformers and peft."""
