"""Kinds of place in numbers: how wide a street is, what is built along it, who is about, where the camera stands."""

import math
from typing import NamedTuple

from trust_exp.data.street_scenes.drawing.canvas import Camera
from trust_exp.data.street_scenes.drawing.dice import Dice

Range = tuple[float, float]
Weights = dict[str, float]


class Place(NamedTuple):
    """How a kind of place is drawn. Ranges are metres or how many there are; all of them overlap between places."""

    road: Range  # half its width
    walk: Range  # width of the sidewalk
    verge: Range  # from the sidewalk to the fronts
    no_road: float  # probability that there is none
    cross_street: float
    crosswalk: float
    built: float  # probability that a lot has a building
    lot: Range
    storeys: Range
    grounds: Weights  # what ground floors are
    roofs: Weights
    walls: Weights
    borders: Weights  # between the sidewalk and the verge
    yard: Weights  # what the ground beyond the sidewalk is
    end: Weights  # what closes the view
    parked: Range
    driving: Range
    trucks: Range
    buses: Range
    motorcycles: Range
    bicycles: Range
    people: Range
    street_trees: Range
    yard_plants: Range
    poles: Range
    lamps: Range
    lights: Range
    signs: Range


PLACES = {
    "residential": Place(
        road=(2.8, 4.5), walk=(1.3, 2.6), verge=(1.0, 7.0), no_road=0.05, cross_street=0.3, crosswalk=0.3,
        built=0.85, lot=(8, 15), storeys=(1, 3),
        grounds={"house": 10, "shop": 0.7, "hall": 0.3}, roofs={"eaves": 4, "gable": 3, "flat": 1},
        walls={"brick": 4, "plaster": 4, "planks": 2.2, "ashlar": 0.8, "tiles": 0.6},
        borders={"none": 2, "hedge": 3, "fence": 3.5, "masonry": 2.5}, yard={"grass": 6, "soil": 1, "tiles": 1},
        end={"leaves": 5, "concrete": 1.5, "grass": 1},
        parked=(1, 6), driving=(0, 2), trucks=(0, 1.15), buses=(0, 1.1), motorcycles=(0, 1.3), bicycles=(0, 2.6),
        people=(0, 4), street_trees=(0, 4), yard_plants=(1, 7), poles=(0, 3), lamps=(0, 3), lights=(0, 1.3),
        signs=(0, 3),
    ),
    "downtown": Place(
        road=(4.0, 7.5), walk=(2.0, 4.5), verge=(0.0, 1.5), no_road=0.05, cross_street=0.6, crosswalk=0.65,
        built=0.94, lot=(10, 24), storeys=(3, 9),
        grounds={"house": 4, "shop": 4, "hall": 0.4}, roofs={"eaves": 1, "gable": 0.5, "flat": 5},
        walls={"brick": 2, "plaster": 3, "ashlar": 3, "tiles": 2, "concrete": 2, "metal": 1},
        borders={"none": 6, "hedge": 0.5, "fence": 1, "masonry": 1},
        yard={"tiles": 4, "ashlar": 2, "asphalt": 1, "grass": 0.7},
        end={"concrete": 5, "leaves": 2}, parked=(0, 4), driving=(1, 6), trucks=(0, 1.6), buses=(0, 2.2),
        motorcycles=(0, 2.6), bicycles=(0, 3), people=(1, 9), street_trees=(0, 4), yard_plants=(0, 1.5), poles=(0, 2),
        lamps=(0, 4), lights=(0, 4), signs=(0, 5),
    ),
    "park": Place(
        road=(2.5, 4.0), walk=(1.8, 4.0), verge=(8, 22), no_road=0.5, cross_street=0.15, crosswalk=0.25,
        built=0.3, lot=(10, 20), storeys=(1, 5),
        grounds={"house": 5, "shop": 1.2, "hall": 0.8}, roofs={"eaves": 3, "gable": 2, "flat": 2},
        walls={"brick": 3, "plaster": 3, "planks": 2, "ashlar": 2, "tiles": 0.5},
        borders={"none": 4, "hedge": 2.5, "fence": 2.5, "masonry": 1}, yard={"grass": 8, "soil": 2},
        end={"leaves": 6, "concrete": 2, "grass": 1},
        parked=(0, 3), driving=(0, 1.5), trucks=(0, 1.1), buses=(0, 1.1), motorcycles=(0, 1.4), bicycles=(0, 4),
        people=(0, 7), street_trees=(1, 6), yard_plants=(4, 14), poles=(0, 1.6), lamps=(0, 4), lights=(0, 1.1),
        signs=(0, 2),
    ),
    "shopping": Place(
        road=(3.0, 5.0), walk=(2.2, 5.0), verge=(0.0, 0.8), no_road=0.4, cross_street=0.35, crosswalk=0.5,
        built=0.97, lot=(7, 16), storeys=(2, 5),
        grounds={"house": 1, "shop": 9, "hall": 0.2}, roofs={"eaves": 4, "gable": 2, "flat": 3},
        walls={"brick": 3, "plaster": 4, "ashlar": 2, "planks": 0.8, "tiles": 1},
        borders={"none": 10, "hedge": 0.3, "fence": 0.7, "masonry": 0.3}, yard={"tiles": 4, "cobbles": 3, "brick": 2},
        end={"concrete": 2, "leaves": 3},
        parked=(0, 4), driving=(0, 3), trucks=(0, 1.4), buses=(0, 1.5), motorcycles=(0, 2.3), bicycles=(0, 4),
        people=(3, 13), street_trees=(0, 3), yard_plants=(0, 1.3), poles=(0, 2), lamps=(0, 4), lights=(0, 2),
        signs=(0, 4),
    ),
    "industrial": Place(
        road=(3.5, 6.0), walk=(1.2, 2.5), verge=(2.0, 12), no_road=0.0, cross_street=0.3, crosswalk=0.15,
        built=0.8, lot=(14, 32), storeys=(1, 3),
        grounds={"hall": 8, "house": 1.5, "shop": 0.4}, roofs={"eaves": 1.5, "gable": 2.5, "flat": 5},
        walls={"sheet": 4, "brick": 3, "concrete": 3, "plaster": 1.5, "metal": 1, "planks": 0.4},
        borders={"none": 2, "hedge": 0.8, "fence": 5, "masonry": 3.5},
        yard={"asphalt": 3, "soil": 3, "grass": 3, "tiles": 1},
        end={"concrete": 3, "leaves": 3, "grass": 1},
        parked=(0, 4), driving=(0, 3), trucks=(0, 3.6), buses=(0, 1.15), motorcycles=(0, 1.5), bicycles=(0, 1.5),
        people=(0, 3), street_trees=(0, 2), yard_plants=(0, 4), poles=(0, 4), lamps=(0, 3), lights=(0, 1.4),
        signs=(0, 4),
    ),
    "country road": Place(
        road=(2.4, 4.0), walk=(0.0, 1.2), verge=(6, 20), no_road=0.0, cross_street=0.15, crosswalk=0.06,
        built=0.22, lot=(9, 18), storeys=(1, 2.6),
        grounds={"house": 5, "hall": 3, "shop": 0.4}, roofs={"eaves": 4, "gable": 3, "flat": 0.5},
        walls={"brick": 3, "plaster": 2.5, "planks": 3, "ashlar": 1.5, "sheet": 0.8},
        borders={"none": 3, "hedge": 1.5, "fence": 4, "masonry": 2}, yard={"grass": 7, "soil": 3},
        end={"grass": 4, "leaves": 4},
        parked=(0, 1.3), driving=(0, 3), trucks=(0, 1.7), buses=(0, 1.2), motorcycles=(0, 1.7), bicycles=(0, 2),
        people=(0, 2.5), street_trees=(0, 4), yard_plants=(2, 10), poles=(0, 5), lamps=(0, 1.4), lights=(0, 1.1),
        signs=(0, 3),
    ),
}  # fmt: skip


class Street(NamedTuple):
    """The measures of one street, metres; x is 0 in the middle of its road."""

    road: float
    walk: float
    verge: float
    hand: int  # 1 where one drives on the right, -1 on the left
    cross: Range | None  # z of the kerbs of a street that crosses

    @property
    def border(self) -> float:
        """x of the sidewalk's outer side."""
        return self.road + self.walk

    @property
    def front(self) -> float:
        """x of the fronts."""
        return self.road + self.walk + self.verge


def draw_street(dice: Dice, place: Place) -> Street:
    """Measures of a street of this kind."""
    road, walk = dice.between(place.road), dice.between(place.walk)
    if dice.chance(place.no_road):
        road, walk = 0.0, walk + 0.6 * road
    cross = None
    if road and dice.chance(place.cross_street):
        near = dice.uniform(7, 35)
        cross = near, near + 2 * dice.between(place.road)
    return Street(road, walk, dice.between(place.verge), dice.sign(), cross)


def draw_camera(dice: Dice, street: Street) -> Camera:
    """Most look along the street from the road, some from the sidewalk, some across."""
    across = dice.chance(0.3)
    yaw = dice.sign() * dice.uniform(0.5, 1.35) if across else dice.uniform(-0.3, 0.3)
    x = dice.uniform(-0.75, 0.75) * max(street.road, 0.7 * street.walk)
    if across:  # from the far side one sees more than a wall
        x = -math.copysign(dice.uniform(0.3, 0.95) * street.border, yaw)
    elif dice.chance(0.25):
        x = dice.sign() * (street.road + 0.5 * street.walk)
    return Camera(x, dice.uniform(1.25, 2.4), yaw, dice.uniform(1.0, 1.65), dice.uniform(0.36, 0.58))
