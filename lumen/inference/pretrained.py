"""Small checkpoints to share: a whole model, or one decoder, as safetensors and json. Nothing in them is code.

A folder of a whole model holds ``model.json`` (how to build it, how images are framed) and ``model.safetensors`` (what
differs from the base model), and ``base`` where a copy of the base model was asked for; that of a decoder
``decoder.json`` (what it fits) and ``decoder.safetensors``. Both hold a ``README.md``. Types are dotted names that are
looked up among registered classes: nothing is imported.
"""

from collections.abc import Collection, Mapping, Sequence
from dataclasses import asdict, dataclass
from os import PathLike
from pathlib import Path
from typing import Any

import torch
from mmengine import Config
from torch import Tensor

from lumen.config import read_config
from lumen.data.keypoint_transforms import AskKeypoints, CropInstance
from lumen.data.transforms import ResizeToInput
from lumen.data.views import Views, find_views
from lumen.errors import CheckpointError, ConfigError, named_faults
from lumen.inference.exported import COPIED_BASE, DECODER, MODEL, models_named, read_folder, write_folder
from lumen.inference.hub import open_folder
from lumen.inference.model_card import decoder_card, model_card
from lumen.inference.questions import Question
from lumen.model import Lumen
from lumen.paths import CHECKOUT, find_path
from lumen.prompts import TaskWording
from lumen.registry import DECODERS, MODELS
from lumen.serialization.checkpoint import (
    absent_names,
    load_checkpoint,
    load_trained_state,
    trained_state,
)
from lumen.serialization.config_json import class_of, config_from_json, config_to_json, dotted_name, known_types
from lumen.serialization.fingerprint import digest_tensors, require_equal

_SKETCH = 1024
_MAX_DECODERS = 1000  # one per task; to build 100,000 takes half a minute
_REMEDY = "Load the model that it was trained with"


@dataclass(frozen=True, slots=True)
class Pretrained:
    """What ``from_pretrained`` reads.

    Args:
        model: With its weights, in evaluation mode, on the CPU.
        views: How it sees images and objects.
        classes: Phrases to ask for where a question names none.
        description: The model's own description, and what was written with it.
    """

    model: Lumen
    views: Views
    classes: tuple[str, ...] | None
    description: dict[str, str]


def save_pretrained(
    model: Lumen,
    folder: Path | str,
    *,
    config: Mapping[str, Any],
    views: Views,
    names: Collection[str] | None = None,
    classes: Sequence[str] | None = None,
    description: Mapping[str, str] | None = None,
    card: Mapping[str, Any] | None = None,
    license_id: str | None = None,
    copy_base: bool = False,
) -> Path:
    """Write a whole model: what differs from its base model, and how to build and ask it.

    Args:
        model: The model.
        folder: Where to write; it must not exist, or be empty.
        config: What the model was built from, as in ``config.model``.
        views: How it sees images and objects; see ``lumen.data.views.find_views``.
        names: Names of ``state_dict`` to write, those of a checkpoint that was loaded; else ``trained_state`` chooses.
        classes: Phrases to ask for where a question names none.
        description: What else a reader should know, such as the stage.
        card: A protocol card, as ``protocol_test.json`` holds it, for the figures in ``README.md``.
        license_id: The licence that it is given under, as the hub spells it, such as ``apache-2.0``.
        copy_base: Whether the folder gets a copy of the base model, whose own licence then holds for that part.

    Returns:
        The folder.

    Raises:
        CheckpointError: The folder is in use, or ``names`` has one that the model lacks.
        ConfigError: ``config`` holds what json cannot, or a class that is not registered; or the base model is not a
            folder of safetensors, which could be copied.
    """
    state = trained_state(model) if names is None else _named(model.state_dict(), names)
    content = {
        "model": config_to_json(config, "model"),
        "absent": absent_names(model, state),
        "views": _views_to_json(views),
        "classes": None if classes is None else list(classes),
        "description": {**model.describe(), **(description or {})},
    }
    lmm = content["model"]["lmm"]
    base = Path(find_path(lmm["name_or_path"])) if copy_base else None
    lmm["name_or_path"] = COPIED_BASE if copy_base else lmm["name_or_path"]
    about = {"base_model": lmm["name_or_path"], "classes": classes, "license_id": license_id}
    about["plug_ins"], specs = _plug_ins(content["model"]), [decoder.spec for decoder in model.decoders.values()]
    readme = model_card(specs, content["description"], card, **about)
    return write_folder(Path(folder), MODEL, content, state, readme=readme, base=base)


def from_pretrained(
    folder: Path | str,
    *,
    types: Collection[type] = (),
    base_model: Path | str | None = None,
    model_ids: Collection[str] = (),
    revision: str | None = None,
) -> Pretrained:
    """Build a model that ``save_pretrained`` wrote.

    The folder is data: it causes no import and no download. What it needs beside itself is named by the caller.

    Args:
        folder: Looked up by ``lumen.paths.find_path``; or ``org/name``, a repository of the Hugging Face Hub, which is
            fetched: of its files those of an exported model only.
        types: Classes of plug-ins that may be built beside those of Lumen; importing a plug-in that registers its
            classes does as well.
        base_model: Folder or model id of the base model, if it is not the folder that is named in the model's.
        model_ids: Ids of further models, such as a SAM, that the folder may name and that may be downloaded.
        revision: Branch, tag or commit of the repository; a commit cannot change later.

    Raises:
        CheckpointError: A file is missing or broken, names a class that is not known or a model that is not on this
            machine, the base model is missing or another one, or the repository cannot be read.
        ConfigError: ``revision`` is given for a folder.
    """
    path = open_folder(folder, MODEL, revision=revision)
    content, state = read_folder(path, MODEL)
    config = content["model"]
    with named_faults(f"{folder} holds no model that can be built", CheckpointError, remedy="copy the folder again"):
        if len(config["decoders"]) > _MAX_DECODERS:
            raise CheckpointError(
                f"{folder} names {len(config['decoders'])} decoders, the limit is {_MAX_DECODERS}: copy it again"
            )
        if base_model is None and config["lmm"]["name_or_path"] == COPIED_BASE:
            base_model = path / COPIED_BASE
        if base_model is not None:
            config["lmm"]["name_or_path"] = str(base_model)
        _refuse_downloads(config, {str(base_model), *model_ids}, "model")
        model = MODELS.build(config_from_json(config, known_types(types), "model"))
        recorded, here = content["description"], model.describe()
        same_keys = {key: recorded.get(key) for key in here}
        require_equal(same_keys, here, f"{folder} does not fit its base model", remedy=_REMEDY)
        load_trained_state(model, {"state_dict": state, "meta": {"absent": content["absent"], "model": recorded}})
        classes = None if content["classes"] is None else Question.of(content["classes"], "detection").phrases
        return Pretrained(model.eval(), _views_from_json(content["views"]), classes, dict(recorded))


def save_decoder(
    model: Lumen,
    task: str,
    folder: Path | str,
    *,
    config: Mapping[str, Any],
    stage: str = "decoding",
    card: Mapping[str, Any] | None = None,
    license_id: str | None = None,
) -> Path:
    """Write one decoder, with what a model must have for it to fit.

    Args:
        model: The model that it was trained with.
        task: Its task.
        folder: Where to write; it must not exist, or be empty.
        config: What the decoder was built from; the entry of ``config.model.decoders``.
        stage: How it was trained, for readers: ``decoding`` with LMM and aligner frozen.
        card: See ``save_pretrained``.
        license_id: See ``save_pretrained``.

    Returns:
        The folder.

    Raises:
        CheckpointError: The folder is in use.
        ConfigError: The model has no such decoder, or ``config`` is not that of its class.
    """
    if task not in model.decoders:
        raise ConfigError(f"the model has no decoder for {task!r}; it has {list(model.decoders)}")
    decoder = model.decoders[task]
    content = {
        "decoder": config_to_json(config, "decoder"),
        "task": asdict(model.lmm.wording_of(task)),
        "stage": stage,
        "fits": fingerprint(model),
    }
    found, named = dotted_name(type(decoder)), content["decoder"]["type"]
    if found != named:
        raise ConfigError(f"the decoder of {task!r} is a {found}, the config names {named!r}")
    facts = {"stage": stage, **content["fits"]}
    readme = decoder_card(decoder.spec, facts, card, license_id=license_id, plug_ins=_plug_ins(content["decoder"]))
    return write_folder(Path(folder), DECODER, content, decoder.state_dict(), readme=readme)


def load_decoder(
    model: Lumen,
    folder: Path | str,
    *,
    types: Collection[type] = (),
    model_ids: Collection[str] = (),
    revision: str | None = None,
) -> str:
    """Add a decoder that ``save_decoder`` wrote to a model; the answers of its other tasks stay as they are.

    Args:
        model: The model, with the LMM and the aligner that the decoder was trained with.
        folder: See ``from_pretrained``.
        types: See ``from_pretrained``.
        model_ids: See ``from_pretrained``.
        revision: See ``from_pretrained``.

    Returns:
        The task that the model can answer now.

    Raises:
        CheckpointError: A file is missing or broken, or the decoder was trained with another LMM or aligner; the
            message names what differs.
        ConfigError: The model has a decoder for this task.
        PromptError: The wording of the task is not one, or differs from what the model knows by that name.
    """
    content, state = read_folder(open_folder(folder, DECODER, revision=revision), DECODER)
    if not isinstance(content["fits"], dict):
        raise CheckpointError(f"{folder} does not tell which model its decoder fits; copy the folder again")
    complaint = f"the decoder in {folder} was trained with another model"
    require_equal(content["fits"], fingerprint(model), complaint, remedy=_REMEDY)
    remedy = "copy the folder again"
    with named_faults(f"{folder} holds no decoder that can be built", CheckpointError, remedy=remedy):
        _refuse_downloads(content["decoder"], model_ids, "decoder")
        config = config_from_json(content["decoder"], known_types(types), "decoder")
        decoder = DECODERS.build({**config, "channels": model.aligner.channels})
        wording = TaskWording(**content["task"])
        if wording.name != decoder.spec.name:
            raise CheckpointError(
                f"{folder} words the task {wording.name!r}, its decoder answers {decoder.spec.name!r}"
            )
    load_trained_state(decoder, {"state_dict": state, "meta": {"model": content["fits"]}})
    model.lmm.add_task(wording)
    model.add_decoder(decoder)
    return wording.name


def fingerprint(model: Lumen) -> dict[str, str]:
    """Return what a decoder must find in a model: the description of the LMM, and digests of LMM and aligner.

    Of the LMM up to 1,024 numbers of each tensor are read, evenly spaced, so that a large one costs little.
    """
    sketches = {name: _sketch(tensor) for name, tensor in model.lmm.state_dict().items()}
    return {
        **model.lmm.describe(),
        "lmm_digest": digest_tensors(sketches),
        "aligner_digest": digest_tensors(model.aligner.state_dict()),
    }


def decoder_config(config: Mapping[str, Any], task: str) -> Mapping[str, Any]:
    """Return the entry of ``config['decoders']``, the config of a model, that answers a task.

    Raises:
        ConfigError: There is none.
    """
    kinds = {class_of(node["type"], "decoder").spec.name: node for node in config["decoders"]}
    if task not in kinds:
        raise ConfigError(f"the config has no decoder for {task!r}; it has {list(kinds)}")
    return kinds[task]


def _refuse_downloads(config: Any, named: Collection[str], place: str) -> None:
    """Refuse a config from a folder where it names a model that is not a folder here, unless the caller named it."""
    for where, name in models_named(config, place):
        if not (name in named or Path(find_path(name)).exists()):
            argument = f"base_model={name!r}" if where == "model.lmm.name_or_path" else f"model_ids=[{name!r}]"
            raise CheckpointError(
                f"the base model {name!r}, which {where} names, cannot be read: it is not on this machine, and "
                f"a folder alone never causes a download. Where you trust it, give {argument}, or its folder here"
            )


def _plug_ins(node: Any) -> list[str]:
    """Return the dotted names of the classes in a config, as json holds it, that do not come with Lumen."""
    if isinstance(node, list):
        found = [name for entry in node for name in _plug_ins(entry)]
    elif isinstance(node, dict):
        found = [name for key, entry in node.items() if key != "type" for name in _plug_ins(entry)]
        found += [name for name in [node.get("type")] if isinstance(name, str) and not name.startswith("lumen.")]
    else:
        found = []
    return list(dict.fromkeys(found))


def _views_to_json(views: Views) -> dict[str, dict[str, Any]]:
    whole, crop = views.whole, views.crop
    return {
        "whole": {"input_hw": list(whole.input_hw), "mode": whole.mode, "pad_value": whole.pad_value},
        "crop": {"input_hw": list(crop.input_hw), "padding": crop.padding, "pad_value": crop.pad_value},
        "ask": {"wording": views.ask.wording},
    }


def _views_from_json(node: Mapping[str, Mapping[str, Any]]) -> Views:
    return Views(ResizeToInput(**node["whole"]), CropInstance(**node["crop"]), AskKeypoints(**node["ask"]))


def _sketch(tensor: Tensor) -> Tensor:
    flat = tensor.detach().reshape(-1)
    return torch.cat([flat[:: max(1, len(flat) // _SKETCH)], flat[-1:]])


def _named(state: Mapping[str, Tensor], names: Collection[str]) -> dict[str, Tensor]:
    unknown = sorted(set(names) - state.keys())
    if unknown:
        raise CheckpointError(f"the model has no weights {unknown[:3]}: write those that it has")
    return {name: state[name] for name in names}


@dataclass(frozen=True, slots=True)
class TrainedModel:
    """A model with its weights.

    Args:
        model: The model, on the CPU.
        views: How it sees images and objects.
        description: What is known of it, for reports.
    """

    model: Lumen
    views: Views
    description: dict[str, str]


def load_trained(config_path: str | PathLike[str], checkpoint_path: str | PathLike[str]) -> TrainedModel:
    """Build the model of a config and load a checkpoint.

    Raises:
        ConfigError: The config cannot be read, or names neither ``ResizeToInput`` nor ``CropInstance``.
        CheckpointError: The checkpoint, or the base model that it builds on, cannot be loaded.
    """
    config = read_config(config_path, import_roots=[CHECKOUT])
    checkpoint = load_checkpoint(checkpoint_path)
    model = _build_model(config)
    views = find_views(config, model.inputs)
    load_trained_state(model, checkpoint)
    known = {"config": str(config_path), "checkpoint": str(checkpoint_path)}
    return TrainedModel(model, views, {**model.describe(), "iter": str(checkpoint["meta"].get("iter", "?")), **known})


def _build_model(config: Config) -> Lumen:
    if "model" not in config:
        raise ConfigError(f"{config.filename} has no `model`: name the config of a run")
    with named_faults(f"the model of {config.filename} cannot be built", ConfigError, remedy="check its `model`"):
        try:
            return MODELS.build(config.model)
        except OSError as error:
            raise CheckpointError(
                f"the base model of {config.filename} cannot be read: {str(error).strip().splitlines()[0]} "
                "Checkpoints hold what was trained only; put the base model at the config's name_or_path"
            ) from error
