"""Scripts are made shorter and stay what they are."""

from __future__ import annotations

import json
import shutil
import subprocess
from importlib.resources import files

import pytest

from gradmend.renderers.page.document import SCRIPTS
from gradmend.renderers.page.shorter import shorter

ASSETS = files("gradmend.renderers.page").joinpath("assets")
SAME_TREE = """
const { parse } = require("internal/deps/acorn/acorn/dist/acorn");
const [one, other] = JSON.parse(require("fs").readFileSync(0, "utf8"));
const tree = (text) => JSON.stringify(parse(text, { ecmaVersion: "latest" }),
  (key, value) => (key === "start" || key === "end" ? undefined : value));
process.stdout.write(tree(one) === tree(other) ? "same" : "another");
"""


@pytest.mark.parametrize(
    ("script", "expected"),
    [
        ("const a = `x${u ? ` (${u})  z` : ''}  y`;", "const a=`x${u ? ` (${u})  z` : ''}  y`;"),
        ("(label) => /^(an? ){2} b/i.test(label);", "(label)=> /^(an? ){2} b/i.test(label);"),
        ('const half = whole / 2; // a word, and "one more" / 2', "const half=whole / 2;"),
        ('const link = "https://example.org";', 'const link="https://example.org";'),
        ("f(`${x.replace(/\"}/g, '`')} a`);", "f(`${x.replace(/\"}/g, '`')} a`);"),
        ("a + +b - -c + d;", "a+ +b- -c+d;"),
        ("return typeof x in y;", "return typeof x in y;"),
        ("const f = (x) => x\nconst g = f", "const f=x=>x\nconst g=f"),
        ("i++\n(function () {\n  g();\n})();", "i++\n(function(){g()})();"),
        ("if (a) {\n  b();\n} else {\n  c();\n}\nd();", "if(a){b()}else{c()}\nd();"),
        ("'a \\' // b' + \"c  // d\";", "'a \\' // b'+\"c  // d\";"),
        ("f((a) => { while (g(a)); }); { for (;;); }", "f(a=>{while(g(a));});{for(;;);}"),
        ("async (x) => 1; h(async (x) => x);", "async(x)=>1;h(async(x)=>x);"),
        ("return (x) => x; [(a) => a, (a, b) => b];", "return(x)=>x;[a=>a,(a,b)=>b];"),
        ("", ""),
    ],
)
def test_what_goes_and_what_stays(script: str, expected: str) -> None:
    # Given code in which a shortener could take text for code, when it is shortened,
    # then only what parts nothing goes.
    assert shorter(script) == expected


@pytest.mark.skipif(shutil.which("node") is None, reason="its parser is the judge")
@pytest.mark.parametrize("name", SCRIPTS)
def test_a_parser_finds_the_same_program(name: str) -> None:
    # Given each script of the page, when it is shortened, then its syntax tree is the same,
    # every text and every regular expression to the letter.
    text = ASSETS.joinpath(name).read_text(encoding="utf-8")
    found = subprocess.run(
        ["node", "--expose-internals", "-e", SAME_TREE],
        input=json.dumps([text, shorter(text)]),
        capture_output=True,
        text=True,
        check=True,
    )
    assert found.stdout == "same"


def test_a_script_that_cannot_be_read_is_not_guessed_at() -> None:
    with pytest.raises((ValueError, IndexError)):
        shorter('const a = "never closed;\n')
