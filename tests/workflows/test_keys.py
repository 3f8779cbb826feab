"""The printed keys are a file with every default: it is read back as the settings that nobody changed."""

import re
import tomllib

import pytest

from ibviz import config
from ibviz.settings import Settings, read_toml
from ibviz.workflows.keys import key_tables, keys_text

DEFAULTS = {"Recipe": config.Recipe(), "SuiteConfig": config.SuiteConfig()}


def models_in(kind):
    """All configuration models that a model is made of, itself included."""
    inner = [value for value in vars(config).values() if isinstance(value, type) and issubclass(value, Settings)]
    return [one for one in inner if one.__name__ in str(kind.model_json_schema()) or one is kind]


@pytest.mark.parametrize("name", DEFAULTS)
def test_the_printed_file_is_that_of_the_defaults(tmp_path, name):
    (tmp_path / "file.toml").write_text(keys_text(getattr(config, name)))
    assert read_toml(tmp_path / "file.toml", type(DEFAULTS[name])) == DEFAULTS[name]


@pytest.mark.parametrize("name", ["Sweep", "SuiteConfig"])
def test_every_key_is_there_with_a_description(name):
    kind = getattr(config, name)
    shown = [key.name for table in key_tables(kind) for key in table.keys]
    tables = {re.split(r"[\[\].]+", table.heading)[-2] for table in key_tables(kind) if table.heading}
    for model in models_in(kind):
        assert {*model.model_fields} <= {*shown, *tables}, model
        assert all(field.description for field in model.model_fields.values()), model
    assert all(key.description for table in key_tables(kind) for key in table.keys)


def test_a_default_of_the_page_is_that_of_the_model():
    changed = {"schedule", "kind"}  # a table, and one line for each kind
    for heading, model in (("[training]", config.TrainingConfig()), ("[model]", config.ModelConfig())):
        [table] = [table for table in key_tables(config.Recipe) if table.heading == heading]
        for key in table.keys:
            value = getattr(model, key.name)
            value = list(value) if isinstance(value, tuple) else "none" if value is None else value
            assert key.name in changed or tomllib.loads(f"key = {key.default}")["key"] == value


@pytest.mark.parametrize(("command", "key"), [("train", "attention_price = 0.0"), ("evaluate", "pictures = 16")])
def test_the_command_line_prints_them_without_its_arguments(run, command, key):
    code, out, error = run(command, "--keys")
    assert (code, error) == (0, "")
    assert re.search(rf"^{re.escape(key)} +# number|^{re.escape(key)} +# integer", out, re.MULTILINE)
