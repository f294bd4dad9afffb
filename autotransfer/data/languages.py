"""Languages guessed: by script where that tells, else by the commonest words. Cheap, and honest where it cannot tell.

The words are the 20 or so commonest of each language (function words), as in Grefenstette 1995, "Comparing two
language identification schemes": short words alone find the language of a sentence of 15 words or more nearly always.
"""

from __future__ import annotations

import unicodedata
from collections import Counter
from collections.abc import Mapping

LOOKED = 2000
"""Characters of a text that are looked at."""
UNKNOWN = "unknown"
_SCRIPTS = {
    "HIRAGANA": "Japanese",
    "KATAKANA": "Japanese",
    "HANGUL": "Korean",
    "CJK": "Chinese",
    "THAI": "Thai",
    "GREEK": "Greek",
    "HEBREW": "Hebrew",
    "ARABIC": "Arabic script",
    "CYRILLIC": "Cyrillic script",
    "DEVANAGARI": "Devanagari script",
    "BENGALI": "Bengali",
    "TAMIL": "Tamil",
    "TELUGU": "Telugu",
    "GEORGIAN": "Georgian",
    "ARMENIAN": "Armenian",
}
"""Language by the first word of its signs' Unicode names; a script of many languages is called by itself."""
_WORDS = {
    "English": "the of and to in is that it was for on with as be this are have not you a i by from an or but at his"
    " they he she we my me do no so if all what who will can one would there their has had when which your more",
    "German": "der die und das ist nicht ein eine zu den mit sich auf für von dem des im ich es auch wie wird sind aus",
    "French": "le la les des et est une un dans que pour qui pas sur plus avec ce il au du je nous vous sont mais",
    "Spanish": "el los las una que en es por con para del se no lo su al como más pero sus esta está son muy y",
    "Italian": "il che di è la per un una non sono del della con gli anche più nel ha come le da si dei questo ma",
    "Portuguese": "o os que não uma em para com do da dos se mais as por como ao foi muito mas são seu sua é também",
    "Dutch": "de het een van en dat is niet te op voor met zijn er aan ook als maar bij om ze naar heeft wordt deze",
    "Swedish": "och att det som en på är av för med den inte till om har de ett var jag så men från kan vi",
    "Danish": "og at det er en til på af som med den for de ikke der har var et jeg han men fra kan vi",
    "Polish": "i w nie się na że to jest z do jak ale po co za od tak o jego przez dla był są przy ich",
    "Turkish": "ve bir bu da için ile çok daha olarak ne gibi olan var ama kadar sonra değil ben o en her mi",
    "Indonesian": "yang dan di ini itu dengan untuk tidak dari dalam akan pada juga ke saya ada bisa adalah atau",
    "Czech": "a se je na že v to s z do o i jako ale za by ve po si jsou který tak jsem jeho při",
    "Finnish": "ja on ei että se oli hän mutta ovat kun niin myös joka tai mukaan kuin sen ole minä tämä vain",
}
_STOPS: Mapping[str, frozenset[str]] = {name: frozenset(words.split()) for name, words in _WORDS.items()}


def guess_language(text: str, words: Counter[str]) -> str:
    """Return the language of a text, the script's name where that is all that can be told, or ``unknown``.

    Args:
        text: any text.
        words: its words in lower case, counted.
    """
    script = _script(text[:LOOKED])
    if script:
        return script
    found = {name: sum(n for w, n in words.items() if w in stops) for name, stops in _STOPS.items()}
    (best, most), (_, second), *_ = sorted(found.items(), key=lambda f: -f[1])
    few = most < 2 or most < 0.08 * sum(words.values())
    return UNKNOWN if few or most == second else best


def _script(text: str) -> str:
    """Return the language of the script that most letters are of; empty for Latin letters, or none."""
    if text.isascii():
        return ""
    seen: Counter[str] = Counter(_script_of(c) for c in text if c.isalpha())
    if seen["Japanese"] > 0.1 * seen.total():  # most of its signs may be Chinese ones
        return "Japanese"
    return max(seen, key=lambda s: seen[s]) if seen else ""


def _script_of(character: str) -> str:
    first = "" if character.isascii() else unicodedata.name(character, "").split(" ")[0].split("-")[0]
    return _SCRIPTS.get(first, "")
