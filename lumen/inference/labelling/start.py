"""From a source of pictures and a model to a job whose parts are done."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from lumen.errors import ConfigError
from lumen.inference.labelling.formats import check_formats
from lumen.inference.labelling.job import Job, Survey, check_names, hold_part_of_job, open_job, survey
from lumen.inference.labelling.pictures import list_pictures
from lumen.inference.labelling.progress import show_progress
from lumen.inference.labelling.run import Effort, Labeller, describe_predictor, gives_masks, label_pictures
from lumen.inference.questions import require_threshold
from lumen.inference.reports import Request
from lumen.inference.sources import Source, open_model
from lumen.paths import real_path


@dataclass(frozen=True, slots=True)
class ModelChoice:
    """A model that is yet to be opened; see ``open_model``."""

    source: Source
    device: str | None = None
    dtype: str | None = None

    def open(self) -> Labeller:
        """Load it."""
        return open_model(self.source, self.device, self.dtype)


def label_source(
    place: tuple[Path, Path | None],
    request: Request,
    model: ModelChoice,
    folder: Path,
    *,
    formats: Sequence[str] = (),
    part_size: int = 256,
    part: tuple[int, int] = (1, 1),
    ray: int | None = None,
    effort: Effort | None = None,
) -> dict[str, int]:
    """Label the pictures of a source, those alone that are not done; ``merge_parts`` then writes the files.

    Whatever can be refused is refused before the first picture is read.

    Args:
        place: The source, and the folder of its images; see ``list_pictures``.
        request: Phrases, task and threshold.
        model: What answers.
        folder: Where parts are written; made if missing.
        formats: What ``merge_parts`` will be asked for.
        part_size: Pictures of a part.
        part: See ``label_pictures``.
        ray: Answer in so many processes of Ray; see ``label_on_ray``.
        effort: See ``label_pictures``.

    Returns:
        See ``label_pictures``.

    Raises:
        ConfigError: The folder holds another job, or is in use, or lies in the source; or options do not fit.
        DataError: The source cannot be listed, or too many pictures cannot be read.
    """
    source, images = place
    _check_place(source, folder)
    check_names(request.phrases)
    found, predictor = survey(lambda: list_pictures(source, images=images), str(source)), model.open()
    job = make_job(predictor, request, found, str(source), part_size=part_size)
    check_formats(formats, job)
    open_job(folder, job)
    pictures, options = list_pictures(source, images=images), {"effort": effort}
    with hold_part_of_job(folder, *part), show_progress(job.num_pictures_of(part)) as advance:
        if ray is None:
            return label_pictures(predictor, pictures, job, folder, part=part, advance=advance, **options)
        from lumen.inference.labelling.on_ray import label_on_ray

        del predictor  # the workers open their own
        options |= {"device": model.device, "dtype": model.dtype}
        return label_on_ray(model.source, pictures, job, folder, num_workers=ray, advance=advance, **options)


def _check_place(source: Path, folder: Path) -> None:
    if source.is_dir() and real_path(folder).is_relative_to(real_path(source)):
        raise ConfigError(f"{folder} lies in {source}, so that masks would be taken for pictures; name another --out")


def make_job(predictor: Labeller, request: Request, pictures: Survey, source: str, *, part_size: int) -> Job:
    """Return the job of asking a model about pictures; raises as ``describe_predictor``."""
    described = describe_predictor(predictor, request.task)
    # What cannot be asked is refused before a picture is read.
    require_threshold(request.threshold)
    predictor.predict_drawn([], request.phrases, task=request.task, score_threshold=request.threshold)
    return Job(
        source=source,
        pictures=pictures,
        names=request.phrases,
        task=request.task,
        threshold=request.threshold,
        model=described,
        has_masks=gives_masks(predictor, request.task),
        part_size=part_size,
    )
