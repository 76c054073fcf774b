"""The hostile files."""

from soaking._hostile import Hostile
from soaking._hostile_data import image_files, json_files, label_files, pickle_files
from soaking._hostile_model import archive_files, base_folders, checkpoint_files, request_files, template_files


def all_files() -> list[Hostile]:
    """Return them; a tiny base model is made once."""
    return [
        *(*pickle_files(), *image_files(), *json_files(), *label_files(), *checkpoint_files(), *archive_files()),
        *(*base_folders(), *template_files(), *request_files()),
    ]
