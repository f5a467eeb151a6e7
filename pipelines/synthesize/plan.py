"""What a synthesis job makes, and which of its clips are there already."""

import json
from dataclasses import dataclass

from preprocessing.errors import UserError
from preprocessing.storage.store import Store
from preprocessing.synthetic.clip import ClipSpec
from preprocessing.synthetic.truth import truth_name

#: Settings of the clips in a folder; clips of other settings are not mixed with them.
SETTINGS_NAME = "synthesis.json"
PEOPLE_NAME = "people.parquet"
#: People of one seed; the next seed's people follow, so no two seeds share a person.
PEOPLE_PER_SEED = 1_000_000
SEEDS = 2**32 // PEOPLE_PER_SEED


@dataclass(frozen=True)
class SynthesisConfig:
    """What is made; every field but `people` changes all clips."""

    # One clip for each person.
    people: int
    # Length of each clip.
    seconds: float
    # Side of the frames in pixels, a multiple of 16.
    size: int = 256
    fps: float = 25.0
    # People who make the same motion, frame for frame; 1 gives each person their own.
    people_per_motion: int = 1
    seed: int = 0

    def __post_init__(self) -> None:
        if not 1 <= self.people <= PEOPLE_PER_SEED:
            raise UserError(
                f"people is {self.people}", f"give 1 to {PEOPLE_PER_SEED:,}, and more by --seed"
            )
        if not 0 < self.seconds <= 3600:
            raise UserError(f"seconds is {self.seconds:g}", "give more than 0, at most 3600")
        if self.size < 16 or self.size % 16:
            raise UserError(f"size is {self.size}", "give a multiple of 16")
        if not 1 <= self.fps <= 120:
            raise UserError(f"fps is {self.fps:g}", "give 1 to 120")
        if self.people_per_motion < 1:
            raise UserError(f"people_per_motion is {self.people_per_motion}", "give 1 or more")
        if not 0 <= self.seed < SEEDS:
            raise UserError(f"seed is {self.seed}", f"give 0 to {SEEDS - 1}")

    def clips(self) -> list[ClipSpec]:
        """Return the clips, one for each person."""
        first = self.seed * PEOPLE_PER_SEED
        return [
            ClipSpec(
                name=f"person-{first + number:07d}",
                person=first + number,
                motion=first + number // self.people_per_motion,
                group=number // self.people_per_motion,
                seconds=self.seconds,
                fps=self.fps,
                size=self.size,
            )
            for number in range(self.people)
        ]


@dataclass(frozen=True)
class Plan:
    """All clips, and those that are not there yet."""

    clips: list[ClipSpec]
    todo: list[ClipSpec]
    # Whether the table of people lists exactly these clips.
    is_complete: bool


def plan_job(config: SynthesisConfig, store: Store) -> Plan:
    """Compare a job with what is in its folder.

    Raises:
        UserError: the folder holds clips of other settings, or of more people.
    """
    present = store.list()
    if SETTINGS_NAME in present:
        before = json.loads(store.read(SETTINGS_NAME))
        for name, value in _fixed(config).items():
            if before.get(name) != value:
                raise UserError(
                    f"the clips in {store.url} were made with {name} {before.get(name)}, not "
                    f"{value}",
                    "choose another folder or the same settings",
                )
        if before["people"] > config.people:
            raise UserError(
                f"{store.url} is for {before['people']} people, not {config.people}",
                "ask for as many or more, or choose another folder",
            )
    clips = config.clips()
    # The video is written last, so a video has its truth.
    todo = [clip for clip in clips if f"{clip.name}.mp4" not in present]
    known = SETTINGS_NAME in present and before["people"] == config.people
    return Plan(clips, todo, known and PEOPLE_NAME in present and not todo)


def write_settings(config: SynthesisConfig, store: Store) -> None:
    """Keep the settings beside the clips."""
    content = {"people": config.people, **_fixed(config)}
    store.write_atomic(SETTINGS_NAME, (json.dumps(content, indent=1) + "\n").encode())


def clip_files(clip: ClipSpec) -> tuple[str, str]:
    """Return the names of a clip's video and truth file."""
    video = f"{clip.name}.mp4"
    return video, truth_name(video)


def _fixed(config: SynthesisConfig) -> dict[str, float]:
    names = ("seconds", "size", "fps", "people_per_motion", "seed")
    return {name: getattr(config, name) for name in names}
