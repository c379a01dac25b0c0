"""The living classes as jointed shapes: Biped, Bird, Fish, Quadruped, Reptile, Snake.

Every function draws one object that looks to the right in a free unit (the renderer scales it to the wanted area),
as shapes in painting order: what comes later lies in front.
"""

from __future__ import annotations

import numpy as np

from partbox.data.example.pose import Pose, Shape
from partbox.data.example.shapes import chain, curve, direction, ellipse, limb, place, smooth


def quadruped(pose: Pose) -> list[Shape]:
    """Cat, dog, horse: a level trunk on four jointed legs, neck and head in front, a tail behind."""
    length, depth = pose.about(0.84, 0.09), pose.about(0.44, 0.05)
    leg, width = pose.about(0.64, 0.10), pose.about(0.16, 0.02)
    shoulder, hip = np.array([length / 2, 0.0]), np.array([-length / 2, 0.0])

    def foot(instance: int, joint: np.ndarray, swing: float, knee: float) -> Shape:
        bones = chain(joint + [0, depth * 0.15], [90 + swing, 90 + swing + knee], [leg * 0.55, leg * 0.5])
        return Shape("Foot", instance, limb(bones, [width * 1.5, width, width * 0.85]))

    def pair(joint: np.ndarray, first: int, knee: float) -> list[Shape]:
        apart = pose.about(22, 14)
        middle = pose.about(0, 12)
        return [foot(first + k, joint, middle + side * apart, knee) for k, side in enumerate((-1, 1))]

    back, front = pair(hip + [0.06, 0.0], 0, pose.about(12, 12)), pair(shoulder - [0.06, 0.0], 2, pose.about(-10, 10))
    neck_angle, neck = pose.about(-52, 20), pose.about(0.36, 0.10)
    neck_end = shoulder + direction(neck_angle) * neck
    face_angle = pose.about(18, 16)
    snout = neck_end + direction(face_angle) * pose.about(0.36, 0.06)
    ear = place([[-0.08, 0.0], [-0.03, -0.26], [0.09, -0.04]], neck_end + [-0.04, -0.10], pose.about(-10, 20))
    tail = curve(hip + [-0.02, -0.10], pose.about(205, 35), pose.about(0, 70), pose.about(0.52, 0.10))
    trunk = limb(np.array([hip, [0.0, pose.about(0.0, 0.05)], shoulder]), [depth, depth * 0.92, depth * 1.04])
    return [
        back[0],
        front[0],
        Shape("Tail", 0, limb(tail, np.linspace(0.14, 0.10, len(tail)))),
        Shape("Body", 0, trunk),
        Shape("Body", 0, limb([shoulder, neck_end], [depth * 0.75, 0.24])),
        back[1],
        front[1],
        Shape("Head", 0, ear),
        Shape("Head", 0, limb([neck_end, snout], [pose.about(0.32, 0.03), 0.17])),
    ]


def biped(pose: Pose) -> list[Shape]:
    """Ape or monkey: an upright trunk, a round head on top, two arms, two legs and a curled tail."""
    height, width = pose.about(0.62, 0.07), pose.about(0.40, 0.05)
    lean = pose.about(0, 8)
    hip = np.array([0.0, 0.0])
    neck = hip + direction(-90 + lean) * height
    arm, leg, thick = pose.about(0.66, 0.09), pose.about(0.66, 0.09), pose.about(0.15, 0.02)

    def jointed(part: str, instance: int, joint: np.ndarray, first: float, second: float, length: float) -> Shape:
        bones = chain(joint, [first, second], [length / 2, length / 2])
        return Shape(part, instance, limb(bones, [thick * 1.15, thick, thick * 0.95]))

    shapes = []
    for instance, side in enumerate((-1, 1)):
        shoulder = neck + [side * width * 0.42, 0.10]
        raised = pose.about(12, 55)
        upper = 90 - side * (38 + raised)
        shapes.append(jointed("Hand", instance, shoulder, upper, upper - side * pose.about(10, 55), arm))
        knee = pose.about(12, 18)
        outward = 90 - side * pose.about(24, 14)
        joint = hip + [side * width * 0.28, 0.0]
        shapes.append(jointed("Foot", instance, joint, outward, outward + side * knee, leg))
    tail_side = pose.side()
    tail = curve(hip, 90 - tail_side * pose.about(68, 14), -tail_side * pose.about(95, 35), pose.about(0.72, 0.12), 7)
    head = neck + direction(-90 + lean) * 0.17
    ears = [Shape("Head", 0, ellipse(head + [side * 0.22, -0.02], 0.08, 0.09)) for side in (-1, 1)]
    return [
        Shape("Tail", 0, limb(tail, np.linspace(0.11, 0.08, len(tail)))),
        *shapes,
        Shape("Body", 0, limb([hip, neck + [0, 0.08]], [width * pose.about(0.95, 0.12), width * 1.12])),
        *ears,
        Shape("Head", 0, ellipse(head, 0.21, pose.about(0.225, 0.02))),
    ]


def bird(pose: Pose) -> list[Shape]:
    """Bird: an egg-shaped trunk, round head with a beak, two raised wings, two thin legs, a fan for a tail."""
    length, depth = pose.about(0.40, 0.03), pose.about(0.24, 0.025)
    tilt = pose.about(-22, 12)
    front, rear = direction(tilt) * length, direction(tilt + 180) * length
    head = front + direction(tilt - pose.about(38, 14)) * 0.20
    beak = place([[0.08, -0.09], [0.36, pose.about(0.03, 0.03)], [0.08, 0.09]], head, pose.about(5, 12))
    spread = pose.about(26, 6)
    fan_angle = tilt + 180 + pose.about(4, 16)
    fan_length = pose.about(0.46, 0.07)
    fan = [rear * 0.75]
    fan += [
        rear * 0.75 + direction(fan_angle + bend) * fan_length for bend in (-spread, -spread / 3, spread / 3, spread)
    ]

    def wing(instance: int, angle: float, size: float) -> Shape:
        outline = [[0.0, -0.13], [0.34, -0.19], [0.86, -0.05], [0.60, 0.13], [0.30, 0.20], [0.0, 0.15]]
        return Shape("Wing", instance, place(smooth(outline), direction(tilt) * 0.10, angle, size))

    def foot(instance: int, x: float) -> Shape:
        ankle_angle = pose.about(92, 14)
        bones = chain([x, depth * 0.6], [ankle_angle, ankle_angle + 4, 15], [0.26, 0.14, 0.15])
        return Shape("Foot", instance, limb(bones, [0.085, 0.075, 0.075, 0.06]))

    size = pose.about(1.0, 0.12)
    lift = pose.about(0, 20)
    return [
        wing(0, -78 + lift + pose.about(0, 10), size * 0.95),
        foot(0, -0.10),
        foot(1, pose.about(0.10, 0.03)),
        Shape("Tail", 0, np.array(fan)),
        Shape("Body", 0, limb([rear * 0.72, rear * 0.1, front * 0.62], [0.16, depth * 2, depth * 1.75])),
        Shape("Body", 0, limb([front * 0.62, head], [depth * 1.3, 0.22])),
        Shape("Head", 0, beak),
        Shape("Head", 0, ellipse(head, 0.165, 0.155)),
        wing(1, -124 + lift + pose.about(0, 10), size),
    ]


def fish(pose: Pose) -> list[Shape]:
    """Fish: a spindle whose front is the head, fins above and below, a forked tail."""
    depth, bend = pose.about(0.30, 0.045), pose.about(0, 0.08)
    top = [[0.62, 0.0], [0.45, -depth * 0.62], [0.10, -depth], [-0.30, -depth * 0.72], [-0.62, -0.08 + bend]]
    bottom = [[-0.62, 0.08 + bend], [-0.30, depth * 0.68], [0.10, depth], [0.45, depth * 0.62]]
    body = smooth(np.array(top + bottom))
    gill = pose.about(0.24, 0.05)
    head = body.copy()
    head[:, 0] = np.maximum(head[:, 0], gill)
    swing, fork = pose.about(0, 16), pose.about(34, 8)
    root = np.array([-0.55, bend])
    lobes = [direction(180 + swing + side * fork) * pose.about(0.50, 0.06) for side in (-1, 1)]
    notch = direction(180 + swing) * 0.24
    tail = np.array([root + [0.06, 0.09], root + lobes[0], root + notch, root + lobes[1], root + [0.06, -0.09]])
    slant = pose.about(-0.16, 0.06)
    rise = pose.about(0.24, 0.04)
    dorsal = [[0.24, -depth * 0.6], [0.06 + slant, -depth - rise], [-0.36 + slant, -depth - rise * 0.75]]
    dorsal += [[-0.32, -depth * 0.4]]
    belly = [
        [0.05, depth * 0.6],
        [-0.10 + slant, depth + rise],
        [-0.34 + slant, depth + rise * 0.7],
        [-0.25, depth * 0.4],
    ]
    pectoral_angle = pose.about(140, 22)
    pectoral = place([[0, -0.06], [0.30, -0.12], [0.34, 0.08], [0, 0.07]], [gill - 0.05, depth * 0.28], pectoral_angle)
    return [
        Shape("Tail", 0, tail),
        Shape("Fin", 0, np.array(dorsal)),
        Shape("Fin", 1, np.array(belly)),
        Shape("Body", 0, body),
        Shape("Head", 0, head),
        Shape("Fin", 2, pectoral),
    ]


def reptile(pose: Pose) -> list[Shape]:
    """Lizard from above: a flat trunk, four bent legs spread to the sides, a wedge of a head, a long pointed tail."""
    bend = pose.about(0, 26)
    length = pose.about(0.66, 0.06)
    spine = curve([-length / 2, 0.0], -bend / 2, bend, length, 4)
    thick = pose.about(0.34, 0.03)
    out_angle = bend / 2 + pose.about(0, 14)
    skull = direction(out_angle)
    side = np.array([-skull[1], skull[0]])
    at = spine[-1] + skull * 0.06
    half = [[0.0, 0.13], [0.14, 0.20], [0.44, 0.07]]
    head = np.array([at + skull * x + side * y for x, y in half + [[x, -y] for x, y in reversed(half)]])
    curl = pose.side() * pose.about(120, 35)
    tail = curve(spine[0] + [0.08, 0.0], 180 - bend / 2 - curl * 0.25, curl, pose.about(0.95, 0.10), 9)

    def foot(instance: int, joint: np.ndarray, across: int, forward: float) -> Shape:
        upper = across * (90 - forward)
        reach = pose.about(0.27, 0.03)
        bones = chain(joint, [upper, across * (90 - forward * 3.0 - pose.about(0, 20))], [reach, reach])
        return Shape("Foot", instance, limb(bones, [0.17, 0.14, 0.14]))

    feet = []
    for k, (joint, forward) in enumerate(((spine[3], 22.0), (spine[1], -22.0))):
        feet += [foot(2 * k + (across > 0), joint, across, forward + pose.about(0, 16)) for across in (-1, 1)]
    widths = [thick * 0.75, thick, thick * 1.05, thick, thick * 0.8]
    return [
        *feet,
        Shape("Tail", 0, limb(tail, np.linspace(thick * 0.75, 0.06, len(tail)))),
        Shape("Body", 0, limb(spine, widths)),
        Shape("Head", 0, smooth(head)),
    ]


def snake(pose: Pose) -> list[Shape]:
    """Snake: one long winding trunk, thin at its end, and a head; no limbs."""
    steps = 22
    waves, swing = pose.about(1.25, 0.15), pose.about(88, 10)
    start = pose.about(0, 35)
    angles = swing * np.cos(np.linspace(0, 360 * waves, steps) * np.pi / 180 + np.deg2rad(start))
    spine = chain([0.0, 0.0], list(angles), [0.115] * steps)
    thick = pose.about(0.25, 0.02)
    widths = np.interp(np.linspace(0, 1, steps + 1), [0, 0.35, 0.8, 1], [0.09, thick, thick, thick * 0.8])
    out_angle = float(angles[-1]) + pose.about(0, 20)
    nose = spine[-1] + direction(out_angle) * 0.24
    return [
        Shape("Body", 0, limb(spine, widths)),
        Shape("Head", 0, limb([spine[-1] + direction(out_angle) * 0.04, nose], [0.36, 0.18])),
    ]
