"""Large sets of prompts that are made of templates, always the same: enough of a kind to prove a high share of it.

    json    12 fillings of each of 20 templates: facts, lists, nested objects and calls of tools as JSON
    copy    20 fillings of each of 12 templates: codes, numbers, names, paths and sentences to repeat

Of 240 prompts that all hold 98.9 % are proved; one that does not hold leaves 98.1 %. A set is JSON Lines like those of
the user, so that it is read, hashed and told as they are.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterator, Mapping
from typing import Any

from quantkit.records import record

JSON, COPY = "json", "copy"
ONLY = "Answer with JSON only, nothing else."
REPEAT = "Repeat this text exactly, and write nothing else:"
FILLINGS, COPIES = 12, 20

# Thirteen of each: twelve that are asked, and the last for the example that models without a chat template continue.
NAMES = ("Maria", "Otto", "Aiko", "Tomas", "Priya", "Liam", "Zofia", "Omar", "Ingrid", "Chen", "Lucia", "Kofi", "Ruth")
CITIES = ("Oslo", "Lima", "Kyoto", "Porto", "Accra", "Perth", "Quito", "Tunis", "Graz", "Leeds", "Hanoi", "Turin",
          "Bergen")  # fmt: skip
THINGS = ("lamp", "chair", "kettle", "ladder", "scarf", "guitar", "teapot", "bicycle", "blanket", "mirror", "drill",
          "tent", "pen")  # fmt: skip
COLOURS = ("red", "green", "blue", "black", "white", "yellow", "brown", "grey", "pink", "orange", "purple", "silver",
           "gold")  # fmt: skip
JOBS = ("baker", "nurse", "pilot", "teacher", "farmer", "tailor", "painter", "plumber", "lawyer", "cook", "miner",
        "singer", "clerk")  # fmt: skip
MONTHS = ("January", "February", "March", "April", "May", "June", "July", "August", "September", "October", "November",
          "December", "March")  # fmt: skip
TOPICS = ("solar panels", "tides", "bees", "glaciers", "bread", "bridges", "chess", "volcanoes", "silk", "owls",
          "canals", "magnets", "coral")  # fmt: skip
GOOD = ("It is bright and quiet.", "Arrived early and works well.", "I would buy it again.", "Well made and sturdy.",
        "My children love it.", "Easy to clean.")  # fmt: skip
BAD = ("Broke after a day.", "Far too loud.", "The colour came off.", "It never worked.", "Two parts are missing.",
       "It smells of glue.", "Cheap and wobbly.")  # fmt: skip


@record
class Template:
    """What is asked for, and for the filling of each number the text that it is asked about and the right answer."""

    task: str
    text: Callable[[int], str]
    answer: Callable[[int], Any]


def _number(k: int, first: int = 2, step: int = 7, below: int = 90) -> int:
    """One of some numbers that look as if by chance."""
    return first + k * step % below


def _other(words: tuple[str, ...], k: int, by: int = 5) -> str:
    return words[(k + by) % len(words)]


def _review(k: int) -> tuple[str, bool]:
    good = k % 2 == 0
    return (GOOD[k // 2 % len(GOOD)], True) if good else (BAD[k // 2 % len(BAD)], False)


def _call(name: str, **arguments: Any) -> dict[str, Any]:
    return {"name": name, "arguments": arguments}


CALL = 'Write the call as {"name": ..., "arguments": {...}}.'
TEMPLATES = (
    Template('Write name and age as {"name": ..., "age": ...}.',
             lambda k: f"{NAMES[k]} is {_number(k, 18)} years old.",
             lambda k: {"name": NAMES[k], "age": _number(k, 18)}),
    Template('Write the order as {"item": ..., "count": ...}.',
             lambda k: f"I would like {_number(k, 2, 5, 9)} of the {COLOURS[k]} {THINGS[k]}s, please.",
             lambda k: {"item": THINGS[k], "count": _number(k, 2, 5, 9)}),
    Template('List the colours as {"colours": [...]}.',
             lambda k: f"The flag of the club is {COLOURS[k]} and {_other(COLOURS, k)}.",
             lambda k: {"colours": [COLOURS[k], _other(COLOURS, k)]}),
    Template('Say whether the review is positive as {"positive": true} or {"positive": false}.',
             lambda k: f"About the {THINGS[k]}: {_review(k)[0]}",
             lambda k: {"positive": _review(k)[1]}),
    Template('Write the date as {"year": ..., "month": ..., "day": ...}.',
             lambda k: f"{_number(k, 1, 7, 27)} {MONTHS[k]} {1950 + _number(k, 1, 11, 70)}",
             lambda k: {"year": 1950 + _number(k, 1, 11, 70), "month": 1 + MONTHS.index(MONTHS[k]),
                        "day": _number(k, 1, 7, 27)}),
    Template('Write the address as {"street": ..., "number": ..., "city": ...}.',
             lambda k: f"Mill {COLOURS[k].title()} Lane {_number(k, 3)}, {CITIES[k]}",
             lambda k: {"street": f"Mill {COLOURS[k].title()} Lane", "number": _number(k, 3), "city": CITIES[k]}),
    Template('Write the person as {"name": ..., "job": ..., "city": ...}.',
             lambda k: f"{NAMES[k]} works as a {JOBS[k]} in {CITIES[k]}.",
             lambda k: {"name": NAMES[k], "job": JOBS[k], "city": CITIES[k]}),
    Template("List the names as a JSON array of texts.",
             lambda k: f"{NAMES[k]}, {_other(NAMES, k)} and {_other(NAMES, k, 8)} came to the meeting.",
             lambda k: [NAMES[k], _other(NAMES, k), _other(NAMES, k, 8)]),
    Template("List all numbers in the text as a JSON array.",
             lambda k: f"Bus {_number(k, 10)} stops at platform {_number(k, 1, 3, 9)}.",
             lambda k: [_number(k, 10), _number(k, 1, 3, 9)]),
    Template('Write the measurement as {"value": ..., "unit": ...}.',
             lambda k: f"The {THINGS[k]} weighs {_number(k, 2)}.5 kg.",
             lambda k: {"value": _number(k, 2) + 0.5, "unit": "kg"}),
    Template('Write the trip as {"from": ..., "to": ...}.',
             lambda k: f"The train goes from {CITIES[k]} to {_other(CITIES, k)}.",
             lambda k: {"from": CITIES[k], "to": _other(CITIES, k)}),
    Template('Write the setting as {"name": ..., "enabled": true or false}.',
             lambda k: f"Please turn {'on' if k % 2 else 'off'} the {THINGS[k]} light.",
             lambda k: {"name": f"{THINGS[k]} light", "enabled": bool(k % 2)}),
    Template('Write the table as a list of objects with "id" and "name".',
             lambda k: f"id,name\n{k + 1},{NAMES[k]}\n{k + 2},{_other(NAMES, k)}",
             lambda k: [{"id": k + 1, "name": NAMES[k]}, {"id": k + 2, "name": _other(NAMES, k)}]),
    Template('Write the contact as {"name": ..., "email": ..., "phone": null}. There is no phone.',
             lambda k: f"{NAMES[k]}, {NAMES[k].lower()}@example.org",
             lambda k: {"name": NAMES[k], "email": f"{NAMES[k].lower()}@example.org", "phone": None}),
    Template('Write the product as {"item": {"name": ..., "colour": ...}, "price": ...}.',
             lambda k: f"A {COLOURS[k]} {THINGS[k]} costs {_number(k, 5)}.",
             lambda k: {"item": {"name": THINGS[k], "colour": COLOURS[k]}, "price": _number(k, 5)}),
    Template(f"You can call get_weather(city) and set_timer(minutes). {CALL}",
             lambda k: f"What is the weather in {CITIES[k]}?",
             lambda k: _call("get_weather", city=CITIES[k])),
    Template(f"You can call set_timer(minutes) and play_music(artist). {CALL}",
             lambda k: f"Set a timer for {_number(k, 3)} minutes.",
             lambda k: _call("set_timer", minutes=_number(k, 3))),
    Template(f"You can call search(query, limit). {CALL}",
             lambda k: f"Find {_number(k, 2, 3, 8)} articles about {TOPICS[k]}.",
             lambda k: _call("search", query=TOPICS[k], limit=_number(k, 2, 3, 8))),
    Template(f"You can call add(a, b) and multiply(a, b). {CALL}",
             lambda k: f"How much is {_number(k, 11)} {'plus' if k % 2 else 'times'} {_number(k, 4, 5, 30)}?",
             lambda k: _call("add" if k % 2 else "multiply", a=_number(k, 11), b=_number(k, 4, 5, 30))),
    Template(f"You can call send_message(to, text) and call_person(name). {CALL}",
             lambda k: f'Write to {NAMES[k]}: "The {THINGS[k]} is here."',
             lambda k: _call("send_message", to=NAMES[k], text=f"The {THINGS[k]} is here.")),
)  # fmt: skip


def shape_of(value: Any) -> dict[str, Any]:
    """A JSON Schema of what looks like a value: types, the keys of objects, the number of items; no texts."""
    if isinstance(value, Mapping):
        keys = {key: shape_of(one) for key, one in value.items()}
        return {"type": "object", "properties": keys, "required": list(value)}
    if isinstance(value, list):
        return {"type": "array", "items": shape_of(value[0]), "minItems": len(value), "maxItems": len(value)}
    if value is None or isinstance(value, bool):
        return {"const": value}
    return {"type": "string" if isinstance(value, str) else "number"}


def _json_rows() -> Iterator[dict[str, Any]]:
    for number, template in enumerate(TEMPLATES, 1):
        example = f"{template.text(FILLINGS)}\nJSON: {json.dumps(template.answer(FILLINGS))}"
        for k in range(FILLINGS):
            text = template.text(k)
            yield {
                "id": f"made-json-{number:02}-{k + 1:02}",
                "kind": JSON,
                "prompt": f"{template.task} {ONLY}\n\n{text}",
                "text": f"{template.task}\n\n{example}\n\n{text}\nJSON:",
                "expect": {"json_schema": shape_of(template.answer(k))},
            }


def _letters(seed: str, count: int, alphabet: str) -> str:
    """Letters that look as if by chance, always the same."""
    digest = hashlib.sha256(seed.encode()).digest()
    return "".join(alphabet[byte % len(alphabet)] for byte in digest[:count])


LOWER, UPPER, DIGITS, HEX = "abcdefghijkmnpqrstuvwxyz", "ABCDEFGHJKLMNPQRSTUVWXYZ", "0123456789", "0123456789abcdef"


def _drawn(seed: str, *parts: tuple[int, str]) -> Iterator[str]:
    for number, (count, alphabet) in enumerate(parts):
        yield _letters(f"{seed}/{number}", count, alphabet)


def _copied(kind: int, k: int) -> str:
    """The text of a prompt: of `kind` 0 to 11, the filling `k`."""
    seed = f"{kind}-{k}"
    one, two, three = _drawn(seed, (3, LOWER), (4, DIGITS), (2, UPPER))
    name, city = NAMES[k % len(NAMES)], CITIES[(k * 3 + kind) % len(CITIES)]
    thing, colour = THINGS[(k + kind) % len(THINGS)], COLOURS[(k * 5 + kind) % len(COLOURS)]
    return (
        f"{three}{two}-{one}",
        f"{two}-{two[::-1]}-{one}",
        f"{colour}-{int(two) % 100}-{thing}",
        f"{name.lower()}.{one}@example.org",
        f"https://example.org/{one}/{thing}?id={two}",
        f"/srv/{one}/{name.lower()}/{thing}_{two}.txt",
        f"The {colour} {thing} from {city} costs {int(two) / 100:.2f}.",
        f"{name} left {city} at {int(two) % 24:02}:{int(two) % 60:02} with a {colour} {thing}.",
        f"def {one}(x): return x * {int(two)} + {k}",
        _letters(seed, 12, HEX),
        f"{name}; {city}; {colour}; {thing}; {two}",
        f"v{k}.{int(two) % 30}.{int(two) % 7}-{one}+{three}",
    )[kind]


def _copy_rows() -> Iterator[dict[str, Any]]:
    for kind in range(12):
        for k in range(COPIES):
            text = _copied(kind, k)
            yield {
                "id": f"made-copy-{kind + 1:02}-{k + 1:02}",
                "kind": COPY,
                "prompt": f"{REPEAT}\n{text}",
                "text": f"Input: blue-17-fox\nCopy: blue-17-fox\n\nInput: {text}\nCopy:",
                "expect": {"copy": text},
            }


MADE: Mapping[str, Callable[[], Iterator[dict[str, Any]]]] = {JSON: _json_rows, COPY: _copy_rows}


def made_lines(name: str) -> bytes:
    """The set of that name as JSON Lines in UTF-8."""
    return "".join(f"{json.dumps(row, ensure_ascii=False)}\n" for row in MADE[name]()).encode()
