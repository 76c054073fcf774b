"""Boxes as text to learn, for LMMs that learn to write them."""

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from lumen.codecs import Codec, build_codec
from lumen.registry import TRANSFORMS


@TRANSFORMS.register_module()
class WriteAnswers:
    """Write the objects of each prompt as the text to learn; behind ``AskClasses``.

    Reads ``prompts``, ``gt_instances`` and ``frame``; writes ``prompts`` with answers. The boxes are those of
    ``gt_instances``, in input pixels, from left to right and then from top to bottom; a prompt without objects gets
    what the codec writes for none.

    Args:
        codec: How boxes are written: a codec, or a dict of the arguments of ``BoxCodec``, or of another class as
            ``type``. The dialect of the adapter must read the same: ``generation.dialect``.
        task: Prompts of this task get answers; the others stay.

    Raises:
        ConfigError: There is no such codec.
    """

    def __init__(self, *, codec: Codec | Mapping[str, Any], task: str = "written_boxes") -> None:
        self.codec = build_codec(codec)
        self.task = task

    def __call__(self, results: dict[str, Any]) -> dict[str, Any]:
        """Add answers."""
        targets, input_hw = results["gt_instances"], results["frame"].input_hw
        prompts = []
        for number, prompt in enumerate(results["prompts"]):
            if prompt.task == self.task:
                boxes = sorted(targets["bboxes"][targets["prompt_index"] == number].tolist())
                prompt = replace(prompt, answer=self.codec.encode(boxes, input_hw, prompt.text.strip()))
            prompts.append(prompt)
        results["prompts"] = tuple(prompts)
        return results
