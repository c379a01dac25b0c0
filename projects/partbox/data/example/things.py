"""The made classes as jointed shapes: Aeroplane, Bicycle, Boat, Bottle, Car.

Same conventions as ``animals``: free unit, looking to the right, shapes in painting order.
"""

from __future__ import annotations

import numpy as np

from partbox.data.example.pose import Pose, Shape
from partbox.data.example.shapes import chain, direction, ellipse, limb, place, ring


def aeroplane(pose: Pose) -> list[Shape]:
    """Airliner seen obliquely: a long hull with a nose, two swept wings, an engine under each, a fin and tailplanes."""
    length, thick = pose.about(1.75, 0.10), pose.about(0.29, 0.03)
    nose, rear = length / 2, -length / 2
    near_angle, far_angle = pose.about(118, 9), pose.about(-122, 9)
    span = pose.about(0.86, 0.08)

    def wing(instance: int, angle: float, span: float, chord: float) -> Shape:
        tip = direction(angle) * span
        outline = [[0.22, 0.0], tip + [0.06, 0.0], tip - [chord * 0.4, 0.0], [0.22 - chord, 0.0]]
        return Shape("Wing", instance, np.array(outline))

    def engine(instance: int, angle: float, distance: float) -> Shape:
        at = direction(angle) * distance + [0.20, 0.02]
        return Shape("Engine", instance, limb([at - [0.14, 0], at + [0.12, 0]], [0.15, 0.20]))

    fin_height = pose.about(0.44, 0.06)
    fin = [[rear + 0.40, -thick * 0.2], [rear + 0.04, -thick / 2 - fin_height], [rear - 0.12, -thick / 2 - fin_height]]
    fin += [[rear + 0.04, -thick * 0.2]]
    plane = place([[0.16, 0.0], [-0.12, 0.30], [-0.26, 0.30], [-0.10, 0.0]], [rear + 0.16, 0.02], pose.about(0, 8))
    hull = limb(
        [[rear, -thick * 0.2], [rear + 0.45, 0], [nose - 0.3, 0], [nose - 0.1, 0.02]], [0.08, thick, thick, thick * 0.8]
    )
    cockpit = limb([[nose - 0.22, 0.005], [nose, 0.04]], [thick * 1.02, thick * 0.42])
    return [
        engine(0, far_angle, span * 0.40),
        wing(0, far_angle, span * 0.88, 0.46),
        Shape("Tail", 0, np.array(fin)),
        Shape("Body", 0, hull),
        Shape("Head", 0, cockpit),
        Shape("Tail", 0, plane),
        engine(1, near_angle, span * 0.52),
        wing(1, near_angle, span, 0.52),
    ]


def bicycle(pose: Pose) -> list[Shape]:
    """Bicycle: two rings for tyres, a frame of bars, fork and handlebar in front, a saddle on the seat post."""
    base, radius = pose.about(1.02, 0.06), pose.about(0.41, 0.03)
    bar = pose.about(0.11, 0.01)
    rear, front = np.array([-base / 2, 0.0]), np.array([base / 2, 0.0])
    crank = np.array([pose.about(-0.06, 0.03), 0.04])
    saddle = crank + direction(pose.about(-106, 5)) * pose.about(0.66, 0.05)
    post = crank + (saddle - crank) * 0.78
    crown = front + direction(pose.about(-109, 5)) * 0.52
    stem = crown + direction(-108) * pose.about(0.20, 0.04)
    grip = stem + direction(pose.about(-10, 45)) * 0.20
    thickness = pose.about(0.165, 0.015)

    def tyre(instance: int, hub: np.ndarray) -> Shape:
        return Shape("Tier", instance, ring(hub, radius, radius - thickness))

    bars = [[crank, rear], [crank, saddle], [crank, crown], [post, crown], [post, rear]]
    return [
        tyre(0, rear),
        tyre(1, front),
        *[Shape("Body", 0, limb(np.array(ends), [bar, bar])) for ends in bars],
        Shape("Head", 0, limb([front, crown, stem, grip], [bar, bar * 1.1, bar * 1.1, bar * 1.1])),
        Shape("Seat", 0, limb([saddle - [0.14, 0.02], saddle + [0.17, 0.0]], [0.15, 0.08])),
    ]


def boat(pose: Pose) -> list[Shape]:
    """Sailing boat: a hull that is wider at the deck than at the keel, a main sail and often a jib."""
    length, depth = pose.about(1.25, 0.10), pose.about(0.30, 0.05)
    keel = pose.about(0.62, 0.08)
    deck = [[-length / 2, 0.0], [length * 0.56, pose.about(-0.08, 0.04)]]
    hull = deck + [[length / 2 * keel, depth], [-length / 2 * keel, depth]]
    mast = pose.about(0.04, 0.08)
    height = pose.about(1.15, 0.10)
    gap = 0.05
    belly = pose.about(0.08, 0.06)
    boom = pose.about(0.52, 0.05)
    main = [
        [mast, -gap - 0.05],
        [mast, -height],
        [mast - boom * 0.55 - belly, -height * 0.48],
        [mast - boom, -gap - 0.05],
    ]
    shapes = [Shape("Sail", 0, np.array(main))]
    if pose.about(0.5, 0.5) < 0.75:
        jib_height = height * pose.about(0.82, 0.10)
        foot = mast + pose.about(0.48, 0.05)
        jib = [
            [mast + 0.06, -gap - 0.06],
            [mast + 0.06, -jib_height],
            [foot - 0.08, -jib_height * 0.4],
            [foot, -gap - 0.08],
        ]
        shapes.append(Shape("Sail", 1, np.array(jib)))
    pole = limb([[mast + 0.02, 0.05], [mast + 0.02, -height]], [0.05, 0.04])
    return [*shapes, Shape("Body", 0, pole), Shape("Body", 0, np.array(hull))]


def bottle(pose: Pose) -> list[Shape]:
    """Bottle: an upright vessel with shoulders and, on top, a narrow mouth."""
    width, height = pose.about(0.52, 0.06), pose.about(0.95, 0.10)
    neck, shoulder = pose.about(0.20, 0.025), pose.about(0.30, 0.07)
    foot = width * pose.about(0.94, 0.06)
    mouth = pose.about(0.30, 0.05)
    lip = neck * pose.about(1.30, 0.10)
    half = [
        [neck / 2, -height],
        [neck / 2, -height + 0.05],
        [width / 2, -height + shoulder],
        [width / 2, -height * 0.4],
    ]
    half += [[foot / 2, -0.05], [foot / 2 - 0.04, 0.0]]
    right = np.array(half)
    vessel = np.concatenate([right, right[::-1] * [-1, 1]])
    pipe = [
        [-neck / 2, -height + 0.04],
        [-neck / 2, -height - mouth],
        [neck / 2, -height - mouth],
        [neck / 2, -height + 0.04],
    ]
    cap = [[-lip / 2, -height - mouth], [lip / 2, -height - mouth]]
    cap += [[lip / 2, -height - mouth * 0.5], [-lip / 2, -height - mouth * 0.5]]
    return [Shape("Body", 0, vessel), Shape("Mouth", 0, np.array(pipe)), Shape("Mouth", 0, np.array(cap))]


def car(pose: Pose) -> list[Shape]:
    """Car from the side: a low box with a cabin on top, two tyres, a mirror at the foot of the windscreen."""
    length, waist = pose.about(1.7, 0.10), pose.about(0.32, 0.04)
    roof = pose.about(0.33, 0.05)
    rear, front = -length / 2, length / 2
    screen = front - pose.about(0.46, 0.06)
    back = rear + pose.about(0.22, 0.16)
    slope, back_slope = pose.about(0.30, 0.06), pose.about(0.16, 0.08)
    box = [[rear, 0.0], [rear + 0.02, -waist], [back, -waist - 0.03], [back + back_slope, -waist - roof]]
    box += [[screen - slope, -waist - roof], [screen, -waist - 0.02], [front - 0.04, -waist * 0.80], [front, 0.0]]
    radius = pose.about(0.20, 0.02)
    wheels = [rear + length * pose.about(0.21, 0.02), front - length * pose.about(0.20, 0.02)]
    mirror = [screen - slope * 0.30, -waist - 0.06]
    return [
        Shape("Body", 0, np.array(box)),
        *[Shape("Tier", k, ellipse([x, 0.0], radius, radius)) for k, x in enumerate(wheels)],
        Shape("Side Mirror", 0, limb(chain(mirror, [pose.about(-160, 15)], [0.06]), [0.15, 0.17])),
    ]
