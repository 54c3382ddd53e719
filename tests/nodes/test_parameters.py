"""Parameter tables: declarations and refusals; the documented YAML is consistent with them."""

from __future__ import annotations

import dataclasses
import re
from pathlib import Path

import pytest
import rclpy
import yaml
from rclpy.parameter import Parameter

from lens_ros.nodes.camera.parameters import CameraParameters
from lens_ros.nodes.perception.parameters import PerceptionParameters
from lens_ros.ros import overrides, parameters
from lens_ros.ros.parameters import ParameterError

CONFIG = Path(__file__).resolve().parents[2] / "config"
TABLES = {"perception": PerceptionParameters, "camera": CameraParameters}


@pytest.fixture(scope="module")
def context():
    context = rclpy.Context()
    rclpy.init(args=[], context=context)
    yield context
    rclpy.shutdown(context=context)


@pytest.fixture
def make_node(context):
    nodes = []

    def make(*overrides: Parameter):
        node = rclpy.create_node(
            "parameters", context=context, parameter_overrides=list(overrides), start_parameter_services=False
        )
        nodes.append(node)
        return node

    yield make
    for node in nodes:
        node.destroy_node()


@pytest.mark.parametrize("name", TABLES)
def test_the_yaml_documents_every_parameter_with_its_default(name):
    written = yaml.safe_load((CONFIG / f"{name}.yaml").read_text())["/**"]["ros__parameters"]
    rows = parameters.specifications(TABLES[name])
    assert written == {parameter: row.default for parameter, row in rows.items()}
    assert list(written) == list(rows)
    for parameter, value in written.items():
        assert type(value) is type(rows[parameter].default), parameter  # ROS tells 1 from 1.0


@pytest.mark.parametrize("name", TABLES)
def test_the_yaml_explains_every_parameter_in_the_tables_words(name):
    text = (CONFIG / f"{name}.yaml").read_text()
    for parameter, row in parameters.specifications(TABLES[name]).items():
        comment = re.search(rf"((?: *#.*\n)+) *{parameter}:", text)
        assert comment is not None, parameter
        said = re.sub(r"\s*#\s*|\s+", " ", comment.group(1)).strip()
        expected = row.description
        if row.bounds is not None:
            low, high = (type(row.default)(bound) for bound in row.bounds)
            expected += f" {low} to {high}" + (", or 0." if row.or_zero else ".")
        if row.when != "start":
            expected += f" ({row.when})"
        assert said == expected


@pytest.mark.parametrize("table", TABLES.values())
def test_declaring_gives_the_defaults_and_described_parameters(table, make_node):
    node = make_node()
    values = parameters.declare(node, table)
    assert values == table()
    with pytest.raises(dataclasses.FrozenInstanceError):
        values.model = "other"
    for name, row in parameters.specifications(table).items():
        descriptor = node.describe_parameter(name)
        assert descriptor.description.startswith(row.description)
        assert descriptor.read_only == (row.when == "start")
        assert bool(descriptor.integer_range or descriptor.floating_point_range) == (row.bounds is not None)


def test_overrides_are_read(make_node):
    node = make_node(Parameter("model", value="mine"), Parameter("max_new_tokens", value=64))
    values = parameters.declare(node, PerceptionParameters)
    assert (values.model, values.max_new_tokens) == ("mine", 64)


@pytest.mark.parametrize(
    ("override", "said"),
    [
        (Parameter("image_transport", value="theora"), "is 'theora'; expected one of raw, compressed"),
        (Parameter("max_new_tokens", value=3), "'max_new_tokens'.*expected an integer from 16 to 4096"),
        (Parameter("max_new_tokens", value="many"), "'max_new_tokens'.*expected an integer"),
        (Parameter("reasoner_interval_s", value=-1.0), "'reasoner_interval_s'.*from 0 to 3600"),
        (Parameter("reasoner_interval_s", value=-1), "'reasoner_interval_s'.*a number from 0 to 3600"),
        (Parameter("reasoner_interval_s", value="1"), "'reasoner_interval_s'.*a number from 0 to 3600"),
        (Parameter("reasoner_interval_s", value=True), "'reasoner_interval_s'.*a number from 0 to 3600"),
        (Parameter("hang_timeout_s", value=0.5), "'hang_timeout_s'.*a number from 3 to 3600, or 0"),
        (
            Parameter("qos_overrides./image.subscription.reliability", value="relaible"),
            "'qos_overrides./image.subscription.reliability' is 'relaible'; expected one of .*best_effort",
        ),
        (
            Parameter("qos_overrides./image.subscription.depth", value="3"),
            "'qos_overrides./image.subscription.depth' is '3'; expected an integer from 0 on",
        ),
    ],
)
def test_unusable_values_at_start_are_explained(override, said, make_node):
    with pytest.raises(ParameterError, match=said) as caught:
        parameters.declare(make_node(override), PerceptionParameters)
    assert "correct the parameters file" in str(caught.value)


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("max_target", "'max_target' (did you mean 'max_targets'?)"),
        ("use_simtime", "'use_simtime' (did you mean 'use_sim_time'?)"),
        ("qos_override./image.subscription.depth", "(did you mean 'qos_overrides'?)"),
        ("gripper_force", "'gripper_force'."),
    ],
)
def test_a_name_that_no_parameter_has_is_named_with_the_nearest(name, said, make_node, capfd):
    node = make_node(Parameter(name, value=3), Parameter("max_new_tokens", value=64))
    assert parameters.declare(node, PerceptionParameters).max_new_tokens == 64
    warned = [line for line in capfd.readouterr().err.splitlines() if "[WARN]" in line]
    assert len(warned) == 1 and said in warned[0] and "unless they are meant for other nodes" in warned[0]
    assert "max_new_tokens" not in warned[0]


def test_zero_is_allowed_below_the_bounds_and_nothing_else(make_node):
    node = make_node(Parameter("hang_timeout_s", value=0))
    assert parameters.declare(node, PerceptionParameters).hang_timeout_s == 0.0
    node.add_on_set_parameters_callback(parameters.validator(PerceptionParameters, lambda: True))
    for value, taken in ((3.0, True), (2.9, False), (0.0, True), (-1.0, False), (3600.0, True)):
        [result] = node.set_parameters([Parameter("hang_timeout_s", value=value)])
        assert result.successful is taken, value


@pytest.mark.parametrize("value", ["reliable", "RELIABLE", "Best_Effort", "system_default"])
def test_quality_of_service_may_be_written_in_any_case(value, make_node):
    parameters.declare(
        make_node(Parameter("qos_overrides./image.subscription.reliability", value=value)),
        PerceptionParameters,
    )


def test_quality_of_service_for_a_topic_that_the_node_does_not_have_is_named():
    declared = [
        "max_targets",
        "qos_overrides./image.subscription.depth",
        "qos_overrides./mask.publisher.depth",
    ]
    given = ["max_target", "qos_overrides./imagee.subscription.depth", "qos_overrides./mask.publisher.depth"]
    said = overrides.unknown_policies(given, declared)
    assert "'qos_overrides./imagee.subscription.depth' (did you mean" in said
    assert "'qos_overrides./image.subscription.depth'?)" in said
    assert "mask" not in said and "max_target" not in said
    assert overrides.unknown_policies(declared, declared) == ""


@pytest.mark.parametrize("table", TABLES.values())
def test_names_of_ros_and_of_its_plugins_are_no_misspelling(table, make_node, capfd):
    given = {
        "use_sim_time": False,
        "start_type_description_service": False,
        "qos_overrides./image.subscription.depth": 3,
        "image.compressed.jpeg_quality": 80,
        "image_transport.plugins": "compressed",
    }
    overrides = [Parameter(name, value=value) for name, value in given.items()]
    ours = [Parameter(name, value=row.default) for name, row in parameters.specifications(table).items()]
    parameters.declare(make_node(*overrides, *ours), table)
    assert "[WARN]" not in capfd.readouterr().err


SECTIONS = {
    "/**": True,
    "/*/perception": True,
    "/**/perception": True,
    "robot/perception": True,
    "/robot/perception": True,
    "perception": False,
    "/*": False,
    "robot/percepton": False,
}


@pytest.mark.parametrize(("section", "matches"), SECTIONS.items())
def test_a_file_for_other_nodes_is_named(section, matches, tmp_path):
    file = tmp_path / "mine.yaml"
    parts = section.strip("/").split("/") if "*" not in section else [section]
    content: dict = {"ros__parameters": {"max_targets": 3}}
    for part in reversed(parts):
        content = {part: content}
    file.write_text(yaml.safe_dump(content))
    arguments = ["--ros-args", "--params-file", str(file)]
    messages = overrides.files_for_others("/robot/perception", arguments)
    context = rclpy.Context()
    rclpy.init(args=arguments, context=context)  # what rcl makes of the same file
    node = rclpy.create_node("perception", namespace="robot", context=context, start_parameter_services=False)
    assert ("max_targets" in node._parameter_overrides) is matches
    node.destroy_node()
    rclpy.shutdown(context=context)
    assert (messages == []) is matches
    if not matches:
        assert f"only for /{section.strip('/')}" in messages[0]
    if section == "robot/percepton":
        assert "did you mean '/robot/perception' by '/robot/percepton'?" in messages[0]


FLOATS = [
    (table, name, row)
    for table in TABLES.values()
    for name, row in parameters.specifications(table).items()
    if isinstance(row.default, float)
]


@pytest.mark.parametrize(("table", "name", "row"), FLOATS, ids=[name for _, name, _ in FLOATS])
def test_an_integer_is_a_number_at_start_and_at_run_time(table, name, row, make_node):
    low, high = (int(bound) for bound in row.bounds)
    low = max(low, -1) if low == row.bounds[0] else low + 1  # 0.01 is no integer
    node = make_node(Parameter(name, value=low))
    value = getattr(parameters.declare(node, table), name)
    assert value == low and type(value) is float
    node.add_on_set_parameters_callback(parameters.validator(table, lambda: True))
    if row.when == "start":
        return
    for given in (high, float(high), low):
        assert node.set_parameters([Parameter(name, value=given)])[0].successful
        assert getattr(parameters.read(node, table), name) == given
    for given in (high + 1, high + 1.0, "0", True, [low]):
        refused = node.set_parameters([Parameter(name, value=given)])[0]
        assert not refused.successful, given
    assert getattr(parameters.read(node, table), name) == low


@pytest.mark.parametrize("table", TABLES.values())
def test_choices_are_constraints_of_the_descriptor(table, make_node):
    node = make_node()
    parameters.declare(node, table)
    for name, row in parameters.specifications(table).items():
        said = f"One of: {', '.join(row.choices)}." if row.choices else ""
        if row.or_zero:
            said = f"Expected {parameters.expected(row)}."
        assert node.describe_parameter(name).additional_constraints == said


def test_changes_at_run_time_are_checked(make_node):
    node = make_node()
    parameters.declare(node, PerceptionParameters)
    unconfigured = True
    node.add_on_set_parameters_callback(parameters.validator(PerceptionParameters, lambda: unconfigured))

    def change(name, value):
        return node.set_parameters([Parameter(name, value=value)])[0]

    assert change("model", "mine").successful
    assert change("image_transport", "compressed").successful
    refused = change("image_transport", "theora")
    assert not refused.successful and "expected one of raw, compressed" in refused.reason
    unconfigured = False
    refused = change("model", "other")
    assert not refused.successful and "clean up the node" in refused.reason
    assert change("reasoner_interval_s", 2.0).successful
    assert not change("reasoner_interval_s", -1.0).successful
    values = parameters.read(node, PerceptionParameters)
    assert (values.model, values.image_transport, values.reasoner_interval_s) == ("mine", "compressed", 2.0)
