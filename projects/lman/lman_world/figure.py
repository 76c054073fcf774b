"""A person as coloured outlines: skeleton, limbs as tapered capsules, clothes. x to the right, y down."""

from dataclasses import dataclass

import numpy as np
from jaxtyping import Float

from lman_world.appearance import ATTRIBUTES, Appearance, Rgb, shade

_JOINTS = ("shoulder", "elbow", "wrist", "hip", "knee", "ankle")

KEYPOINTS = ("head", "neck", *(f"{side}_{joint}" for joint in _JOINTS for side in ("left", "right")))
"""Names of the 14 keypoints; left and right are those of the person."""

SKELETON = (
    (0, 1),
    (1, 2),
    (1, 3),
    (2, 4),
    (3, 5),
    (4, 6),
    (5, 7),
    (1, 8),
    (1, 9),
    (8, 10),
    (9, 11),
    (10, 12),
    (11, 13),
)
"""Bones, as pairs of places in ``KEYPOINTS``."""

PARTS = (
    "head",
    "hat",
    "upper clothes",
    "skirt",
    "left arm",
    "right arm",
    "left leg",
    "right leg",
    "bag",
)
"""Names of the nine parts; part ``i`` of a map has the number ``i + 1``. Hair and neck belong to the head, a scarf to
the upper clothes, trousers and shoes to the legs."""

# Lengths as shares of the height of a person who stands straight.
_SPINE, _NECK_TO_HEAD, _HEAD = 0.31, 0.095, 0.075
_SHOULDER, _HIP = 0.105, 0.06
_UPPER_ARM, _FOREARM, _THIGH, _SHIN = 0.165, 0.15, 0.235, 0.225
# Half of the outline of the torso: across, and up from the hips.
_TORSO = np.array([(0.04, 0.33), (0.1, 0.315), (0.135, 0.285), (0.125, 0.22), (0.095, 0.11), (0.1, 0.0), (0.08, -0.05)])
_ROUND = np.linspace(0, np.pi, 7)
_SWING = np.radians(70)


@dataclass(frozen=True, slots=True)
class Pose:
    """How a person stands; angles in radians, from straight down towards the right of the picture.

    Args:
        lean: Of the spine, from straight up towards the right.
        turn: Width of the body as the viewer sees it, 1 when it faces the viewer.
        from_behind: Whether the back is seen.
        arms: Upper arm and forearm of the limbs on the left and on the right of the picture, relative to the spine.
        legs: Thighs and shins in the same way.
        hidden_arm: Arm behind the torso: 0 on the left of the picture, 1 on the right, -1 for none.
        bag_arm: Arm that carries a handbag, if there is one.
    """

    lean: float
    turn: float
    from_behind: bool
    arms: tuple[tuple[float, float], tuple[float, float]]
    legs: tuple[tuple[float, float], tuple[float, float]]
    hidden_arm: int
    bag_arm: int


def sample_pose(rng: np.random.Generator) -> Pose:
    """Draw a pose: limbs swing by up to 70 degrees; three of ten persons are seen from behind."""

    def limb(first: float, second: float) -> tuple[float, float]:
        start = float(rng.uniform(-first, first))
        return start, start + float(rng.uniform(-second, second))

    return Pose(
        lean=float(rng.uniform(-0.45, 0.45)),
        turn=float(rng.uniform(0.55, 1.0)),
        from_behind=bool(rng.random() < 0.3),
        arms=(limb(_SWING, _SWING), limb(_SWING, _SWING)),
        legs=(limb(0.9 * _SWING, 0.9 * _SWING), limb(0.9 * _SWING, 0.9 * _SWING)),
        hidden_arm=int(rng.integers(-1, 2)),
        bag_arm=int(rng.integers(2)),
    )


@dataclass(frozen=True, slots=True)
class Patch:
    """One outline, painted over those before it.

    Args:
        part: Its number, from 1.
        ink: RGB.
        outline: Corners in pixels.
    """

    part: int
    ink: Rgb
    outline: Float[np.ndarray, "corners 2"]


@dataclass(frozen=True, slots=True)
class Figure:
    """A person in pixels.

    Args:
        patches: From back to front.
        keypoints: x and y of each of ``KEYPOINTS``.
        attributes: What shows.
    """

    patches: tuple[Patch, ...]
    keypoints: Float[np.ndarray, "14 2"]
    attributes: frozenset[str]

    @property
    def box(self) -> tuple[float, float, float, float]:
        """The box around it, xyxy."""
        corners = np.concatenate([patch.outline for patch in self.patches])
        return (*corners.min(0).tolist(), *corners.max(0).tolist())

    def placed(self, scale: float, corner_xy: tuple[float, float]) -> "Figure":
        """Return it scaled, with the top-left corner of its box at a place."""
        shift = np.array(corner_xy) - scale * np.array(self.box[:2])
        patches = tuple(Patch(patch.part, patch.ink, patch.outline * scale + shift) for patch in self.patches)
        return Figure(patches, self.keypoints * scale + shift, self.attributes)


def make_figure(appearance: Appearance, pose: Pose) -> Figure:
    """Return a person of height 1 with the middle of the hips at the origin."""
    shown = appearance.wears - ({"glasses"} if pose.from_behind else set())
    shown |= {"seen from behind"} if pose.from_behind else set()
    return Figure(tuple(_Painter(appearance, pose).paint()), _Joints(pose, appearance.build).keypoints, shown)


def attribute_vector(attributes: frozenset[str]) -> list[int]:
    """Return 0 or 1 for each of ``ATTRIBUTES``."""
    return [int(name in attributes) for name in ATTRIBUTES]


class _Joints:
    """Where the joints are; index 0 is the left of the picture, 1 the right."""

    def __init__(self, pose: Pose, build: float) -> None:
        self.up = np.array([np.sin(pose.lean), -np.cos(pose.lean)])
        self.across = np.array([np.cos(pose.lean), np.sin(pose.lean)])
        self.width = pose.turn * build
        self.neck = _SPINE * self.up
        self.head = self.neck + _NECK_TO_HEAD * self.up
        sides = (-1, 1)
        self.shoulders = [self.at(side * _SHOULDER, 0.28) for side in sides]
        self.hips = [self.at(side * _HIP, 0.0) for side in sides]
        # Angles of arms are relative to the spine; legs carry the weight, so theirs are not.
        bent = [tuple(angle - pose.lean for angle in arm) for arm in pose.arms]
        self.elbows = [_step(start, arm[0], _UPPER_ARM) for start, arm in zip(self.shoulders, bent, strict=True)]
        self.wrists = [_step(start, arm[1], _FOREARM) for start, arm in zip(self.elbows, bent, strict=True)]
        self.knees = [_step(start, leg[0], _THIGH) for start, leg in zip(self.hips, pose.legs, strict=True)]
        self.ankles = [_step(start, leg[1], _SHIN) for start, leg in zip(self.knees, pose.legs, strict=True)]
        self.sides = ("left", "right") if pose.from_behind else ("right", "left")

    def at(self, across: float, up: float) -> np.ndarray:
        """Return a point of the torso."""
        return across * self.width * self.across + up * self.up

    @property
    def keypoints(self) -> np.ndarray:
        """The joints in the order of ``KEYPOINTS``."""
        left = self.sides.index("left")
        pairs = (self.shoulders, self.elbows, self.wrists, self.hips, self.knees, self.ankles)
        return np.array([self.head, self.neck, *(joint[side] for joint in pairs for side in (left, 1 - left))])


class _Painter:
    """Gives the patches of one person from back to front."""

    def __init__(self, appearance: Appearance, pose: Pose) -> None:
        self.wears, self.ink, self.pose = appearance.wears, appearance.inks, pose
        self.joints = _Joints(pose, appearance.build)
        self.patches: list[Patch] = []

    def add(self, part: str, ink: Rgb, outline: np.ndarray) -> None:
        self.patches.append(Patch(PARTS.index(part) + 1, ink, outline))

    def paint(self) -> list[Patch]:
        front = not self.pose.from_behind
        if front and "backpack" in self.wears:
            self.pack(1.18)
        hidden = self.pose.hidden_arm
        if hidden >= 0:
            self.arm(hidden)
        for side in (0, 1):
            self.leg(side)
        self.torso()
        if front and "backpack" in self.wears:
            self.straps()
        if not front and "backpack" in self.wears:
            self.pack(0.85)
        self.head(front)
        for side in (0, 1):
            if side != hidden:
                self.arm(side)
        return self.patches

    def arm(self, side: int) -> None:
        joints, part = self.joints, f"{self.joints.sides[side]} arm"
        shoulder, elbow, wrist = joints.shoulders[side], joints.elbows[side], joints.wrists[side]
        cloth, skin = shade(self.ink["upper"], (0.8, 0.9)[side]), self.ink["skin"]
        hand = wrist + 0.25 * (wrist - elbow)
        self.add(part, skin, _capsule(elbow, hand, 0.027, 0.024))
        if "long sleeves" in self.wears:
            self.add(part, cloth, _capsule(elbow, wrist, 0.034, 0.03))
            self.add(part, cloth, _capsule(shoulder, elbow, 0.04, 0.034))
        else:
            self.add(part, skin, _capsule(shoulder, elbow, 0.034, 0.028))
            self.add(part, cloth, _capsule(shoulder, shoulder + 0.55 * (elbow - shoulder), 0.042, 0.04))
        if "handbag" in self.wears and side == self.pose.bag_arm:
            self.handbag(hand)

    def handbag(self, hand: np.ndarray) -> None:
        # A bag hangs straight down, whatever the arm does.
        ink = shade(self.ink["extra"], 0.95)
        for side in (-1, 1):
            self.add("bag", ink, _capsule(hand, hand + np.array([side * 0.035, 0.05]), 0.006, 0.006))
        corners = np.array([(-0.045, 0.045), (0.045, 0.045), (0.06, 0.135), (-0.06, 0.135)])
        self.add("bag", ink, hand + corners)

    def leg(self, side: int) -> None:
        joints, part = self.joints, f"{self.joints.sides[side]} leg"
        hip, knee, ankle = joints.hips[side], joints.knees[side], joints.ankles[side]
        cloth, skin = shade(self.ink["lower"], (0.82, 0.95)[side]), shade(self.ink["skin"], (0.85, 0.95)[side])
        bare = bool({"skirt", "shorts"} & self.wears)
        tone, slack = (skin, 0.0) if bare else (cloth, 0.006)
        self.add(part, tone, _capsule(knee, ankle, 0.037 + slack, 0.025 + slack))
        self.add(part, tone, _capsule(hip, knee, 0.052 + slack, 0.037 + slack))
        if "shorts" in self.wears:
            self.add(part, cloth, _capsule(hip, hip + 0.6 * (knee - hip), 0.06, 0.056))
        if "boots" in self.wears:
            self.add(part, self.ink["shoes"], _capsule(ankle + 0.5 * (knee - ankle), ankle, 0.04, 0.034))
        toe = ankle + np.array([0.05 * (2 * side - 1) * (1.2 - self.pose.turn), 0.022])
        self.add(part, self.ink["shoes"], _capsule(ankle, toe, 0.03, 0.024))

    def torso(self) -> None:
        joints, ink = self.joints, self.ink
        self.add("upper clothes", ink["upper"], self.torso_between(-0.05, 0.33))
        if "striped top" in self.wears:
            tone = (245, 245, 245) if sum(ink["upper"]) < 380 else (30, 30, 30)
            for low in np.arange(0.0, 0.29, 0.075):
                self.add("upper clothes", tone, self.torso_between(low, low + 0.03))
        if "skirt" in self.wears:
            # The hem follows the legs.
            reach = [hip + 0.75 * (knee - hip) for hip, knee in zip(joints.hips, joints.knees, strict=True)]
            low, high = sorted(float(point @ joints.across) for point in reach)
            drop = float(np.mean([point @ joints.up for point in reach]))
            hem = [x * joints.across + drop * joints.up for x in (high + 0.07, low - 0.07)]
            waist = [joints.at(side * 0.1, 0.04) for side in (-1, 1)]
            self.add("skirt", ink["lower"], np.array([*waist, *hem]))
            return
        # Trousers and shorts reach up to the waist; their upper part belongs to both legs, half each.
        for side in (0, 1):
            sign = 2 * side - 1
            corners = [joints.at(0, 0.03), joints.at(sign * 0.1, 0.03), joints.at(sign * 0.11, -0.055)]
            tone = shade(ink["lower"], (0.82, 0.95)[side])
            self.add(f"{joints.sides[side]} leg", tone, np.array([*corners, joints.at(0, -0.09)]))

    def torso_between(self, low: float, high: float) -> np.ndarray:
        """Return the outline of the torso between two heights above the hips."""
        ups = np.array([high, *(up for up in _TORSO[:, 1] if low < up < high), low])
        half = np.interp(ups, _TORSO[::-1, 1], _TORSO[::-1, 0])
        across, up = np.concatenate([-half, half[::-1]]), np.concatenate([ups, ups[::-1]])
        joints = self.joints
        return across[:, None] * joints.width * joints.across + up[:, None] * joints.up

    def pack(self, width: float) -> None:
        joints, ink = self.joints, self.ink["extra"]
        across = np.array([-0.11, 0.11, 0.135, 0.135, 0.11, -0.11, -0.135, -0.135]) * width
        up = np.array([0.3, 0.3, 0.26, 0.07, 0.03, 0.03, 0.07, 0.26])
        outline = across[:, None] * joints.width * joints.across + up[:, None] * joints.up
        self.add("bag", ink, outline)
        pocket = joints.at(0, 0.06) + 0.5 * (outline - joints.at(0, 0.03)) * (1, 0.8)
        self.add("bag", shade(ink, 0.75), pocket)

    def straps(self) -> None:
        for side in (-1, 1):
            top, end = self.joints.at(side * 0.075, 0.315), self.joints.at(side * 0.085, 0.1)
            self.add("bag", self.ink["extra"], _capsule(top, end, 0.014, 0.014))

    def head(self, front: bool) -> None:
        joints, ink, wears = self.joints, self.ink, self.wears
        head, up, across = joints.head, joints.up, joints.across
        self.add("head", shade(ink["skin"], 0.85), _capsule(joints.neck - 0.02 * up, head, 0.035, 0.035))
        if "scarf" in wears:
            ends = [joints.at(side * 0.06, 0.315) for side in (-1, 1)]
            self.add("upper clothes", ink["scarf"], _capsule(ends[0], ends[1], 0.03, 0.03))
            if front:
                self.add("upper clothes", ink["scarf"], _capsule(ends[1], joints.at(0.05, 0.17), 0.024, 0.028))
        if front and "long hair" in wears:
            for side in (-1, 1):
                start = head + side * 0.8 * _HEAD * across + 0.2 * _HEAD * up
                self.add("head", ink["hair"], _capsule(start, start - 0.17 * up + side * 0.01 * across, 0.026, 0.02))
        face = ink["skin"] if front else ink["hair"]
        self.add("head", face, _capsule(head - 0.01 * up, head + 0.005 * up, 0.9 * _HEAD, _HEAD))
        if not front and "long hair" in wears:
            self.add("head", shade(ink["hair"], 0.9), _capsule(head, head - 0.22 * up, _HEAD, 0.05))
        if front:
            self.face(head, up, across)
        if "hat" in wears:
            self.hat(head, up, across)

    def face(self, head: np.ndarray, up: np.ndarray, across: np.ndarray) -> None:
        angles = np.linspace(0.12 * np.pi, 0.88 * np.pi, 9)
        rim = head + _HEAD * 1.06 * (np.cos(angles)[:, None] * across + np.sin(angles)[:, None] * up)
        self.add("head", self.ink["hair"], rim)
        eyes = [head + side * 0.4 * _HEAD * across for side in (-1, 1)]
        has_glasses = "glasses" in self.wears
        for eye in eyes:
            self.add("head", (20, 20, 25), _capsule(eye, eye, *(0.026, 0.026) if has_glasses else (0.009, 0.009)))
        if has_glasses:
            self.add(
                "head",
                (20, 20, 25),
                _capsule(*(eye + side * 0.025 * across for eye, side in zip(eyes, (-1, 1), strict=True)), 0.006, 0.006),
            )
        mouth = head - 0.5 * _HEAD * up
        self.add("head", (150, 60, 60), _capsule(mouth - 0.018 * across, mouth + 0.018 * across, 0.006, 0.006))

    def hat(self, head: np.ndarray, up: np.ndarray, across: np.ndarray) -> None:
        ink, brim = self.ink["extra"], head + 0.45 * _HEAD * up
        corners = np.array([(-0.95, 0.0), (0.95, 0.0), (0.8, 1.0), (0.4, 1.2), (-0.4, 1.2), (-0.8, 1.0)]) * _HEAD
        self.add("hat", ink, brim + corners[:, :1] * across + corners[:, 1:] * up)
        self.add(
            "hat", shade(ink, 0.75), _capsule(brim - 1.5 * _HEAD * across, brim + 1.5 * _HEAD * across, 0.013, 0.013)
        )


def _step(start: np.ndarray, angle: float, length: float) -> np.ndarray:
    return start + length * np.array([np.sin(angle), np.cos(angle)])


def _capsule(first: np.ndarray, second: np.ndarray, radius: float, end_radius: float) -> np.ndarray:
    """Return the outline of a line whose ends are round."""
    along = second - first
    angle = np.arctan2(along[1], along[0]) + np.pi / 2
    around = np.stack([np.cos(angle + _ROUND), np.sin(angle + _ROUND)], 1)
    return np.concatenate([first + radius * around, second - end_radius * around])
