"""The LMM: adapters, the nano model, packed prompts. The only package that imports transformers and peft."""
