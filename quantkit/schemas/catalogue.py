"""What the commands that list things print, and the error of any command."""

from __future__ import annotations

from typing import NotRequired, TypedDict


class QuantType(TypedDict):
    name: str
    bits_per_weight: float
    block: int
    bytes: int
    importance: str


class Supports(TypedDict):
    gguf: bool
    mmproj: bool
    calibrate: bool
    servers: bool


class Family(TypedDict):
    name: str
    gguf: str
    architectures: list[str]
    supports: Supports
    why_not: str | None


class Encoder(TypedDict):
    """An encoder of images or sound by its projector, and the architectures that have it."""

    name: str
    architectures: list[str]


class Schemes(TypedDict):
    """Of schemes: everything that quantkit can be asked for."""

    types: list[QuantType]
    methods: list[str]
    containers: list[str]
    recipes: list[str]
    consumers: list[str]
    families: list[Family]
    encoders: list[Encoder]


class ListedRecipe(TypedDict):
    name: str
    default: str
    description: str
    container: str
    needs_calib: bool
    needs_imatrix: bool
    aliases: list[str]


class Recipes(TypedDict):
    """Of recipes: the shipped recipes."""

    recipes: list[ListedRecipe]


class Recipe(TypedDict):
    """Of recipes NAME: one recipe as its file."""

    name: str
    toml: str


class Finding(TypedDict):
    area: str
    ok: bool | None
    what: str


class Doctor(TypedDict):
    """Of doctor: what was found of the machine, its disk, its caches and the installed packages."""

    findings: list[Finding]


class ErrorBody(TypedDict):
    """An error; `others` are what else is wrong and was found before anything began."""

    code: str
    exit: int
    message: str
    hint: str | None
    tensor: str | None
    path: str | None
    key: str | None
    others: NotRequired[list[ErrorBody]]


class Error(TypedDict):
    """Of any command that fails, on stdout beside the message on stderr."""

    error: ErrorBody


class Fit(TypedDict):
    """A recipe that was tried for --fit."""

    recipe: str
    bytes: int
    fits: bool
