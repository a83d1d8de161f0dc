"""What messages, recipes and pages advise to type is accepted by the parser."""

import ast
import functools
import re
import shlex
from pathlib import Path

import pytest

from simclr_jax.cli.recipe import load

ROOT = Path(__file__).parents[1]
SECTION = "run|data|augment|encoder|heads|method|optim|schedule|evals|warm_start|parallel"
SETTING = re.compile(rf"(?<![\w./])(?:--)?(?:config\.)?((?:{SECTION})(?:\.[a-z_0-9]+)+)(?:=(\S+))?")
FLAG = re.compile(r"(?<![\w-])--([a-z][a-z_]*)(?![\w.-])")
# Of other programs: of gcsfuse, of tfds.
THEIRS = {"implicit-dirs", "dataset_version_dir", "out_file_format", "data_dir", "file_format"}
ALL = (
    "simclr_digits",
    "simclr_cifar10",
    "simclr_folder",
    "simclr_imagenet",
    "linear_probe",
    "finetune",
    "supervised",
    "distill",
)
OWN = ("simclr_folder", *(f"{name}:folder" for name in ALL[4:]))
# The first prefix of a setting says which recipes a message about it can be about; what a method
# says of its own settings is about its recipe.
APPLIES_TO = {
    "augment.color_strength": ALL[:4],
    "augment.num_texts": ("simcse",),
    "data.captions": ("clip:digits",),
    "data.labels_from_folders": OWN,
    "data.path": ALL[1:],
    "data.test_split": ALL,
    "method.teacher": ("distill",),
    "method.memory": ("simclr_imagenet:v2_r50_1x,memory",),
    "method.loss_tile": ALL[:4],
    "method.queue_size": ("moco_v2", "swav"),
    "encoder.geometry": ALL[:4],
    "encoder.norm": ("cpc",),
    "encoder.patch": ("mae",),
    "encoder.pool": ("mae",),
    "heads.projector": ALL[:4],
    "heads.predictor": ("byol", "moco_v3"),
    "heads.text": ("clip:digits", "simcse"),
    "heads.classifier": ALL[4:],
    "heads.prototypes": ("swav",),
    "evals.classifier": ALL[4:],
    "warm_start.trees": ("linear_probe", "finetune"),
    "warm_start": ALL[:6],
    "": ALL,
}
# What a message fills in.
SAMPLES = {
    "data.batch_size": 64,
    "data.canvas": 64,
    "data.name": "folder",
    "data.test_split": "test",
    "augment.size": 32,
    "augment.name": "finetune",
    "encoder.name": "resnet",
    "encoder.remat": "blocks",
    "heads.classifier.num_classes": 7,
    "method.grad_cache_chunks": 4,
    "method.memory.size": 4096,
    "method.teacher": "runs/x",
    "parallel.fsdp": 4,
    "parallel.preset": "zero1",
    "run.epochs": 9,
    "schedule.base_lr": 0.5,
    "schedule.warmup_epochs": 1.0,
    "warm_start.checkpoint": "runs/x",
}


def texts(path):
    """Yields the text of each string that is no docstring, with {} for what is filled in."""
    tree = ast.parse(path.read_text())
    parts = {
        id(part)
        for node in ast.walk(tree)
        if isinstance(node, ast.JoinedStr)
        for part in node.values
    }
    docs = {
        id(node.body[0].value)
        for node in ast.walk(tree)
        if isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef)
        and isinstance(node.body[0], ast.Expr)
    }
    for node in ast.walk(tree):
        if isinstance(node, ast.JoinedStr):
            known = lambda part: str(part.value) if isinstance(part, ast.Constant) else "{}"
            yield "".join(map(known, node.values))
        elif isinstance(node, ast.Constant) and id(node) not in parts | docs:
            yield str(node.value)


def messages():
    """Yields (file, text) of the strings of the program that have blanks, as sentences have."""
    for path in sorted((ROOT / "simclr_jax").rglob("*.py")):
        yield from ((path, text) for text in texts(path) if " " in text)


def advised_settings():
    """Yields (file, key, value) of every setting that a message names; {} for a value not said."""
    for path, text in messages():
        for key, value in SETTING.findall(text):
            value = value.rstrip(".,;:)").strip("'\"")
            filled_in = not value or value.isupper() or "{" in value or "%" in value  # N, {}, %d
            yield path.name, key.rstrip("."), "{}" if filled_in else value


SETTINGS = sorted(set(advised_settings()))


@functools.cache
def parse(recipe, *overrides):
    """Returns the config that the program makes of a recipe and what is set on the command line."""
    return load(f"{ROOT}/configs/{recipe}", overrides).config


def file_of(recipe):
    name, colon, variant = recipe.partition(":")
    return f"{name}.py{colon}{variant}"


@pytest.mark.parametrize(("source", "key", "value"), SETTINGS)
def test_a_setting_that_a_message_names_can_be_set(source, key, value):
    recipes = next(recipes for prefix, recipes in APPLIES_TO.items() if key.startswith(prefix))
    if key.startswith("method.") and (ROOT / "configs" / source).exists():
        recipes = (source.removesuffix(".py"),)
    for recipe in recipes:
        if value == "{}" and key not in SAMPLES:  # a section, or a setting that is not a flag's
            section = parse(file_of(recipe))
            for part in key.split("."):
                assert part in section, f"{recipe} has no config.{key}"
                section = section[part]
        else:
            given = SAMPLES[key] if value == "{}" else value
            config = parse(file_of(recipe), f"--config.{key}={given}")
            for part in key.split("."):
                config = config[part]
            assert str(config) == given or config == type(config)(given)


def flags_of(path):
    names = set()
    for call in ast.walk(ast.parse(path.read_text())):
        if isinstance(call, ast.Call) and isinstance(call.func, ast.Attribute):
            if call.func.attr == "define_workdir":
                names.add("workdir")
            elif call.func.attr.lower().startswith("define_") and call.args:
                names |= {a.value for a in call.args[:1] if isinstance(a, ast.Constant)}
    return names


VERBS = {path.stem: flags_of(path) for path in (ROOT / "simclr_jax/cli").glob("*.py")}


def test_a_flag_that_a_message_names_exists():
    every = set.union(*VERBS.values())
    for path, text in messages():
        known = VERBS[path.stem] if path.parent.name == "cli" and VERBS[path.stem] else every
        for name in FLAG.findall(text):
            assert name in known | {"config", "help", "flags"} | THEIRS, (
                f"{path.name}: --{name} in {text!r}"
            )


RECIPE = re.compile(r"--config=(?:configs/)?([a-z]\w+)(?:\.py)?(?::|$)")


def commands():
    """Yields the commands with a recipe that pages and the recipes' and verbs' docstrings have."""
    pages = (ROOT / "README.md", *ROOT.glob("docs/**/*.md"))
    for path in (*pages, *ROOT.glob("configs/*.py"), *ROOT.glob("simclr_jax/cli/*.py")):
        text = path.read_text().replace("\\\\\n", " ").replace("\\\n", " ")
        if path.suffix == ".py":
            text = ast.get_docstring(ast.parse(text)) or ""
        for command in re.findall(r"(?:python -m simclr_jax|simclr-jax) ([^`\n|#]+)", text):
            words = shlex.split(re.sub(r"[\[\]]", "", command), comments=True)
            if any(RECIPE.match(word) for word in words):
                yield path.name, words


@pytest.mark.parametrize(("source", "words"), [*commands()])
def test_a_command_of_the_documentation_is_one(source, words):
    verb, *arguments = words
    settings = [word for word in arguments if word.startswith("--config.")]
    own = any("my_encoders" in word for word in settings)  # whose module is not here to import
    given = [word for word in settings if not (own and word.startswith("--config.encoder."))]
    (config,) = [word for word in arguments if word.startswith("--config=")]
    others = [word for word in arguments if word not in (*settings, config, "...")]
    recipe = config.removeprefix("--config=").removeprefix("configs/").replace(".py", "")
    parse(file_of(recipe), *given)
    for word in others:
        assert word.startswith("--"), words
        assert word[2:].partition("=")[0] in VERBS[verb] | {"help-config"}, words
